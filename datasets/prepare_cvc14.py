"""Convert the CVC-14 pedestrians to COCO JSON: annotations/<labels>_{train,test}.json.

The visible camera is gray: train with data.gray_visible=true. The two cameras do not coincide, and each has
labels of its own.
"""

from __future__ import annotations

from options import prepare_parser, run

# Numbers of pairs that the authors state.
PUBLISHED = {"train": 7085, "test": 1433}

PARSER = prepare_parser(__doc__, "python datasets/prepare_cvc14.py --source /data/CVC-14", "cvc14")
PARSER.add_argument(
    "--labels",
    default="visible",
    choices=["visible", "infrared"],
    help="the camera in whose images the labels were drawn (default visible)",
)


def main(argv=None) -> None:
    args = PARSER.parse_args(argv)
    from ivtuning.data.catalog import data_root
    from ivtuning.data.prepare.coco import write_set
    from ivtuning.data.prepare.pedestrians import PERSON, cvc14_pairs, cvc14_time, read_cvc14

    output = args.output or data_root() / "cvc14"
    source = args.source or output
    parts = {}
    for part in ("train", "test"):
        parts[part], alone = cvc14_pairs(source, args.labels, part)
        print(f"{part}: {len(parts[part])} pairs; {alone} frames of one camera alone are left out")
    write_set(
        parts,
        [PERSON],
        read_cvc14,
        source=source,
        output=output,
        split=args.labels,
        description=f"CVC-14 pedestrians, labels of the {args.labels} camera",
        time=cvc14_time,
        gray_visible=True,
        published={f"{args.labels}_{part}": {"images": images} for part, images in PUBLISHED.items()},
        dry_run=args.dry_run,
    )


if __name__ == "__main__":
    run(PARSER, main)
