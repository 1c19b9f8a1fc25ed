"""Turn the MSRS detection labels (YOLO boxes of test pairs) into COCO JSON: annotations/det_{train,val}.json.

MSRS labels boxes in its test split alone, so these pairs are divided: every third name, sorted, validates.
"""

from __future__ import annotations

from options import prepare_parser, run

PARSER = prepare_parser(__doc__, "python datasets/prepare_msrs_detection.py --source /data/MSRS", "msrs")
PARSER.add_argument(
    "--labels",
    default="fusion",
    choices=["fusion", "infrared", "visible"],
    help="what the annotators saw: fused images (default), or one modality (split det_infrared, det_visible)",
)
TIMES = {"D": "day", "N": "night"}


def main(argv=None) -> None:
    args = PARSER.parse_args(argv)
    from ivtuning.data.annotations import read_classes, read_yolo
    from ivtuning.data.catalog import data_root
    from ivtuning.data.prepare.coco import write_set
    from ivtuning.data.prepare.pairing import find_pairs

    output = args.output or data_root() / "msrs"
    source = args.source or output
    folder = "MSRS-detection-label"
    classes = read_classes(source / folder / "classes.txt")
    pairs = find_pairs(source, "test/vi/*.png", "test/ir/*.png", f"{folder}/{args.labels}/test/*.txt")
    labeled = [pair for pair in pairs if pair.label]
    print(f"{len(labeled)} labeled pairs; {len(pairs) - len(labeled)} without a label file are left out")
    val = labeled[2::3]
    write_set(
        {"train": [pair for pair in labeled if pair not in val], "val": val},
        classes,
        lambda path, size: read_yolo(path, classes, size),
        source=source,
        output=output,
        split="det" if args.labels == "fusion" else f"det_{args.labels}",
        description=f"MSRS test pairs with boxes annotated on {args.labels} images",
        time=lambda stem: TIMES.get(stem[-1]),
        dry_run=args.dry_run,
    )


if __name__ == "__main__":
    run(PARSER, main)
