"""Make a set of your own pairs: two folders of images, and labels of VOC, YOLO or COCO, or label maps.

--vis, --ir and --labels name folders, whose files are found at any depth and paired by their names, but for
words that all files of a folder share (0001_RGB.jpg and 0001_thermal.jpeg). Where that does not fit, give
patterns: their * is what the files of a pair share, and {part} is a folder such as train, val or test. The
result is <output>/annotations/<split>_{train,val}.json, or segmentation/ for label maps.
"""

from __future__ import annotations

import re

from options import own_pairs_parser, run

EXAMPLE = r"""python datasets/prepare_pairs.py --set mine --vis my/visible --ir my/infrared --labels my/labels
  python datasets/prepare_pairs.py --set llvip --source /data/LLVIP --vis 'visible/{part}/*.jpg' \
    --ir 'infrared/{part}/*.jpg' --labels Annotations --classes person
  python datasets/prepare_pairs.py --set maps --vis my/visible --ir my/infrared --labels my/maps \
    --classes background,person,car --split 0.3"""

PARSER = own_pairs_parser(__doc__, EXAMPLE)
PARSER.add_argument("--labels", required=True, help="labels: a folder, a pattern, or a COCO JSON")
PARSER.add_argument(
    "--classes",
    help="names with commas between, or a file (classes.txt, data.yaml); by default those of the labels. "
    "For label maps in the order of their values from 0",
)
PARSER.add_argument("--ignore", default="", help="names of classes to leave out, with commas between")
PARSER.add_argument(
    "--split",
    help="folders (train, val, test), random (a fifth validates), a share such as 0.3, NAME=val.txt or "
    "NAME=train.txt,val.txt; by default folders where all pairs are in such ones, else random",
)


def main(argv=None) -> None:
    args = PARSER.parse_args(argv)
    from ivtuning.data.catalog import data_root
    from ivtuning.data.prepare.own_pairs import prepare_pairs
    from ivtuning.errors import UserError

    if not re.fullmatch(r"\w[\w.-]*", args.set):
        raise UserError(f"--set {args.set!r}: give a name of letters, digits, - and _, such as flir")
    files = prepare_pairs(
        args.vis,
        args.ir,
        args.labels,
        args.output or data_root() / args.set,
        name=args.set,
        source=args.source,
        classes=args.classes,
        ignore=args.ignore,
        split=args.split,
        gray_visible=args.gray_visible,
        dry_run=args.dry_run,
    )
    if not args.dry_run:
        task = "segmentation" if files[0].parent.name == "segmentation" else "detection"
        sets = f"data.train={files[0]} data.val={files[1]}"
        print(f"train on it: make train CONFIG=configs/custom/{task}.py {sets}")


if __name__ == "__main__":
    run(PARSER, main)
