"""Make a set of classified pairs: two trees of folders, visible and infrared, with one folder a class.

--vis and --ir name folders, whose files are found at any depth and paired by their paths and names, but for
words that all files of a folder share (0001_RGB.jpg and 0001_thermal.jpeg). Where that does not fit, give
patterns: their * is what the files of a pair share. The class is the folder that an image is in. A folder day
or night above it is the pair's time. The result is <output>/classification/<split>_{train,val}.json.
"""

from __future__ import annotations

import re

from options import own_pairs_parser, run

EXAMPLE = r"""python datasets/prepare_pair_folders.py --set mine --vis my/visible --ir my/infrared
  python datasets/prepare_pair_folders.py --set flir_crops --source /data/FLIR_align_crop \
    --vis '*/*/rgb/*/*.jpg' --ir '*/*/thermal/*/*.jpeg' --group-by _ --split 0.1,0.2"""

PARSER = own_pairs_parser(__doc__, EXAMPLE)
PARSER.add_argument(
    "--classes",
    help="names of folders in the order of their labels, with commas between (default: all, sorted)",
)
PARSER.add_argument(
    "--split",
    help="folders (train, val, test), random (a fifth validates), a share such as 0.3, two shares, the "
    "second for a test, NAME=val.txt or NAME=train.txt,val.txt; by default folders where all pairs are in "
    "such ones, else random",
)
PARSER.add_argument(
    "--group-by",
    metavar="TEXT",
    help="what ends the name of a frame or scene in the names of files, such as _; a random split keeps its "
    "pairs in one part, and check_pairs.py finds those in two",
)


def main(argv=None) -> None:
    args = PARSER.parse_args(argv)
    from ivtuning.data.catalog import data_root
    from ivtuning.data.prepare.pair_folders import prepare_pair_folders
    from ivtuning.errors import UserError

    if not re.fullmatch(r"\w[\w.-]*", args.set):
        raise UserError(f"--set {args.set!r}: give a name of letters, digits, - and _, such as flir")
    if args.group_by == "":
        raise UserError("--group-by is empty: give what ends a group in the names, such as _")
    files = prepare_pair_folders(
        args.vis,
        args.ir,
        args.output or data_root() / args.set,
        name=args.set,
        source=args.source,
        classes=args.classes,
        split=args.split,
        group_by=args.group_by,
        gray_visible=args.gray_visible,
        dry_run=args.dry_run,
    )
    if not args.dry_run:
        sets = f"data.train={files[0]} data.val={files[1]}"
        print(f"train on it: make train CONFIG=configs/custom/pair_classification.py {sets}")


if __name__ == "__main__":
    run(PARSER, main)
