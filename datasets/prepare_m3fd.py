"""Convert the M3FD release (Vis/ Ir/ Annotation/*.xml) to COCO JSON: annotations/<split>_{train,val}.json."""

from __future__ import annotations

from pathlib import Path

from options import prepare_parser, run

CLASSES = ["People", "Car", "Bus", "Motorcycle", "Lamp", "Truck"]
SCENE = Path(__file__).resolve().parent / "splits" / "m3fd_scene_val.txt"
# Counts of the published scene split, by which an incomplete or relabeled copy is recognized.
PUBLISHED = {
    "scene_train": {"images": 3368, "boxes": 27324},
    "scene_val": {"images": 831, "boxes": 7074},
}

PARSER = prepare_parser(
    __doc__, "python datasets/prepare_m3fd.py --source /data/M3FD_Detection --dry-run", "m3fd"
)
PARSER.add_argument(
    "--split",
    default="scene",
    help="scene (default; whole runs of frames validate), random (80/20; neighboring frames leak into "
    "validation), NAME=val.txt or NAME=train.txt,val.txt (lists of ids, ranges of ids or file names)",
)
PARSER.add_argument("--seed", type=int, default=0, help="seed of the random split (default 0)")


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
    split, parts = split_pairs(pairs, chosen, source, args.seed)
    write_set(
        parts,
        CLASSES,
        lambda path, size: read_voc(path, CLASSES, size),
        source=source,
        output=output,
        split=split,
        description="M3FD detection pairs (TarDAL)",
        published=PUBLISHED,
        dry_run=args.dry_run,
    )


if __name__ == "__main__":
    run(PARSER, main)
