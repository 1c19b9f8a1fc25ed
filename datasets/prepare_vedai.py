"""Convert the VEDAI release to COCO JSON with upright boxes: annotations/fold01_{train,val}.json.

The release divides 1,210 pairs into ten folds, each of which has 121 for the test, called val here.
"""

from __future__ import annotations

from options import prepare_parser, run

PUBLISHED = {"train": {"images": 1089}, "val": {"images": 121}}

PARSER = prepare_parser(__doc__, "python datasets/prepare_vedai.py --source /data/VEDAI", "vedai")
PARSER.add_argument("--fold", type=int, default=1, choices=range(1, 11), help="1 (default) to 10")
PARSER.add_argument(
    "--size", type=int, default=512, choices=[512, 1024], help="of the images, in pixels (default 512)"
)


def main(argv=None) -> None:
    args = PARSER.parse_args(argv)
    from ivtuning.data.catalog import data_root
    from ivtuning.data.prepare.coco import write_set
    from ivtuning.data.prepare.pairing import find_pairs, split_pairs
    from ivtuning.data.prepare.vedai import CLASSES, read_vedai

    output = args.output or data_root() / "vedai"
    source = args.source or output
    images, labels = f"Vehicules{args.size}", f"Annotations{args.size}"
    pairs = find_pairs(source, f"{images}/*_co.png", f"{images}/*_ir.png", f"{labels}/*.txt")
    fold = f"fold{args.fold:02}"
    split, parts = split_pairs(pairs, f"{fold}={labels}/{fold}.txt,{labels}/{fold}test.txt", source)
    write_set(
        parts,
        list(CLASSES.values()),
        read_vedai,
        source=source,
        output=output,
        split=split,
        description=f"VEDAI vehicles, {args.size} px, fold {args.fold}",
        published={f"{split}_{part}": counts for part, counts in PUBLISHED.items()},
        dry_run=args.dry_run,
    )


if __name__ == "__main__":
    run(PARSER, main)
