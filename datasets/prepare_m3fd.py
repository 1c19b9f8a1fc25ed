"""Turn the M3FD release (Vis/ Ir/ Annotation/*.xml) into COCO JSON: annotations/<split>_{train,val}.json."""

from __future__ import annotations

from pathlib import Path

from options import prepare_parser, run

CLASSES = ["People", "Car", "Bus", "Motorcycle", "Lamp", "Truck"]
SCENE = Path(__file__).resolve().parent / "splits" / "m3fd_scene_val.txt"
# (images, boxes) of the published scene split, to tell an incomplete or relabeled copy.
PUBLISHED = {"train": (3368, 27324), "val": (831, 7074)}

PARSER = prepare_parser(
    __doc__, "python datasets/prepare_m3fd.py --source /data/M3FD_Detection --dry-run", "m3fd"
)
PARSER.add_argument(
    "--split",
    default="scene",
    help="scene (default; contiguous runs of frames), random (80/20: neighboring frames leak into val), "
    "NAME=val.txt or NAME=train.txt,val.txt (lists of ids, ranges of ids or file names)",
)
PARSER.add_argument("--seed", type=int, default=0, help="of the random split (default 0)")


def main(argv=None) -> None:
    args = PARSER.parse_args(argv)
    from ivtuning.data.annotations import read_voc
    from ivtuning.data.catalog import data_root
    from ivtuning.data.prepare.coco import write_set
    from ivtuning.data.prepare.pairing import find_pairs, split_pairs

    output = args.output or data_root() / "m3fd"
    source = args.source or output
    pairs = find_pairs(source, "Vis/*.png", "Ir/*.png", "Annotation/*.xml")
    chosen = f"scene={SCENE}" if args.split == "scene" else args.split
    split, parts = split_pairs(pairs, chosen, args.seed)
    contents = write_set(
        parts,
        CLASSES,
        lambda path, size: read_voc(path, CLASSES),
        source=source,
        output=output,
        split=split,
        description="M3FD detection pairs (TarDAL)",
        dry_run=args.dry_run,
    )
    for part, coco in contents.items() if args.split == "scene" else ():
        found = (len(coco["images"]), len(coco["annotations"]))
        if found != PUBLISHED[part]:
            text = "note: scene_{}: {} images, {} boxes; the published split has {} and {}"
            print(text.format(part, *found, *PUBLISHED[part]))


if __name__ == "__main__":
    run(PARSER, main)
