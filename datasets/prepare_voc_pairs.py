"""Convert paired images with VOC XML labels to COCO JSON; the defaults fit the layout of LLVIP.

Patterns are relative to --source. Their * is the stem that visible image, infrared image and XML share;
{part} is the folder of the published split, train or test (test becomes val, the split is called default).
"""

from __future__ import annotations

import re

from options import prepare_parser, run

EXAMPLE = r"""python datasets/prepare_voc_pairs.py --source /data/LLVIP
  python datasets/prepare_voc_pairs.py --set flir --source /data/FLIR_aligned --classes person,car,bicycle \
    --ignore dog --vis 'JPEGImages/*_RGB.jpg' --ir 'JPEGImages/*_PreviewData.jpeg' \
    --xml 'Annotations/*_PreviewData.xml' --split default=align_train.txt,align_validation.txt"""

PARSER = prepare_parser(__doc__, EXAMPLE, "<set>")
PARSER.add_argument("--set", default="llvip", help="name of the set (default %(default)s)")
PARSER.add_argument("--vis", default="visible/{part}/*.jpg", help="visible images (default %(default)s)")
PARSER.add_argument("--ir", default="infrared/{part}/*.jpg", help="infrared images (default %(default)s)")
PARSER.add_argument("--xml", default="Annotations/*.xml", help="labels (default %(default)s)")
PARSER.add_argument("--classes", default="person", help="class names, comma-separated (default %(default)s)")
PARSER.add_argument("--ignore", default="", help="names of classes to leave out, comma-separated")
PARSER.add_argument(
    "--split",
    help="for patterns without {part}: random, NAME=val.txt or NAME=train.txt,val.txt (lists in --source)",
)
PARSER.add_argument(
    "--gray-visible", action="store_true", help="accept gray visible images, of a camera without color"
)


def main(argv=None) -> None:
    args = PARSER.parse_args(argv)
    from ivtuning.data.annotations import check_classes, read_voc
    from ivtuning.data.catalog import data_root
    from ivtuning.data.prepare.coco import write_set
    from ivtuning.data.prepare.pairing import find_pairs, split_pairs
    from ivtuning.errors import UserError

    if not re.fullmatch(r"\w[\w.-]*", args.set):
        raise UserError(f"--set {args.set!r}: give a name of letters, digits, - and _, such as flir")
    output = args.output or data_root() / args.set
    source = args.source or output
    classes = check_classes(args.classes.split(","), "--classes")
    ignored = check_classes(args.ignore.split(","), "--ignore") if args.ignore.strip() else []
    if both := {name.lower() for name in classes} & {name.lower() for name in ignored}:
        raise UserError(f"class {min(both)!r} is in --classes and in --ignore: remove it from one")
    if args.vis == args.ir:
        raise UserError(f"--vis and --ir are both {args.vis!r}: give the pattern of each kind of image")
    patterns = (args.vis, args.ir, args.xml)
    folders = {"train": "train", "val": "test"}
    if "{part}" not in args.vis:
        if not args.split:
            raise UserError(f"--vis {args.vis!r} has no {{part}} folder: choose with --split how to divide")
        split, parts = split_pairs(find_pairs(source, *patterns), args.split, source)
    elif args.split:
        raise UserError(
            f"--split {args.split} cannot divide the {{part}} folders of --vis {args.vis!r}: drop one of them"
        )
    else:
        split = "default"
        parts = {
            part: find_pairs(source, *(p.replace("{part}", folder) for p in patterns))
            for part, folder in folders.items()
        }
    write_set(
        parts,
        classes,
        lambda path, size: read_voc(path, classes, size, ignored),
        source=source,
        output=output,
        split=split,
        description=f"{args.set} pairs with VOC labels",
        gray_visible=args.gray_visible,
        dry_run=args.dry_run,
    )


if __name__ == "__main__":
    run(PARSER, main)
