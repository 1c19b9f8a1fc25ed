"""Convert the MSRS detection labels (YOLO boxes) to COCO JSON: annotations/official_{train,test}.json.

The label release has boxes for all 1,444 pairs, in the official parts train and test. From a copy without the
training part, or with --split det, annotations/det_{train,val}.json is made instead: the labeled test pairs,
every third of which, sorted by name, validates.
"""

from __future__ import annotations

from options import prepare_parser, run

LABELS = "MSRS-detection-label"
# Numbers of images, and of person, bicycle and car boxes, in the official parts, by --labels.
PUBLISHED = {
    "fusion": {"train": (1083, 2925, 641, 1355), "test": (361, 893, 127, 461)},
    "infrared": {"train": (1083, 3733, 709, 1139), "test": (361, 1174, 242, 379)},
    "visible": {"train": (1083, 1579, 511, 1286), "test": (361, 466, 142, 394)},
}
COUNTED = ("images", "person boxes", "bicycle boxes", "car boxes")

PARSER = prepare_parser(__doc__, "python datasets/prepare_msrs_detection.py --source /data/MSRS", "msrs")
PARSER.add_argument(
    "--labels",
    default="fusion",
    choices=list(PUBLISHED),
    help="what the annotators saw: fused images (default), or one modality (splits official_infrared, ...)",
)
PARSER.add_argument(
    "--split",
    choices=["official", "det"],
    help="official (default if the training part is there), or det (divides the labeled test pairs)",
)


def main(argv=None) -> None:
    args = PARSER.parse_args(argv)
    from ivtuning.data.annotations import read_classes, read_yolo
    from ivtuning.data.catalog import data_root
    from ivtuning.data.modalities import time_of
    from ivtuning.data.prepare.coco import write_set
    from ivtuning.data.prepare.pairing import find_pairs
    from ivtuning.errors import UserError

    output = args.output or data_root() / "msrs"
    source = args.source or output
    classes = read_classes(source / LABELS / "classes.txt")
    training = [source / "train/vi", source / LABELS / args.labels / "train"]
    absent = [str(folder) for folder in training if not folder.is_dir()]
    if absent and args.split == "official":
        raise UserError(
            f"{absent[0]} is missing, but the official split needs it: fetch it, or use --split det"
        )
    official = not absent and args.split != "det"
    parts = {}
    for part in ("train", "test") if official else ("test",):
        labels = f"{LABELS}/{args.labels}/{part}/*.txt"
        pairs = find_pairs(source, f"{part}/vi/*.png", f"{part}/ir/*.png", labels)
        parts[part] = [pair for pair in pairs if pair.label]
        unlabeled = len(pairs) - len(parts[part])
        print(f"{part}: {len(parts[part])} labeled pairs; {unlabeled} without a label file are left out")
    if not official:
        reason = f", because {absent[0]} is missing" if absent else ""
        print(f"split det: the labeled test pairs are divided{reason}")
        val = parts["test"][2::3]
        parts = {"train": [pair for pair in parts["test"] if pair not in val], "val": val}
    name = "official" if official else "det"
    split = name if args.labels == "fusion" else f"{name}_{args.labels}"
    published = {
        f"{split}_{part}": dict(zip(COUNTED, numbers, strict=True))
        for part, numbers in PUBLISHED[args.labels].items()
    }
    write_set(
        parts,
        classes,
        lambda path, size: read_yolo(path, classes, size),
        source=source,
        output=output,
        split=split,
        description=f"MSRS {'' if official else 'test '}pairs with boxes annotated on {args.labels} images",
        time=time_of,
        published=published if official else {},
        dry_run=args.dry_run,
    )


if __name__ == "__main__":
    run(PARSER, main)
