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
    from ivtuning.data.prepare.coco import count_boxes, count_warnings, write_set
    from ivtuning.data.prepare.pedestrians import PERSON, count_lines, cvc14_pairs, cvc14_time, read_cvc14

    output = args.output or data_root() / "cvc14"
    source = args.source or output
    found = {part: cvc14_pairs(source, args.labels, part) for part in ("train", "test")}
    print(*count_lines([(part, left_out) for part, (_, left_out) in found.items()]), sep="\n")
    contents = write_set(
        {part: pairs for part, (pairs, _) in found.items()},
        [PERSON],
        read_cvc14,
        source=source,
        output=output,
        split=args.labels,
        description=f"CVC-14 pedestrians, labels of the {args.labels} camera",
        time=cvc14_time,
        gray_visible=True,
        dry_run=args.dry_run,
    )
    published = {f"{args.labels}_{part}": {"images": images} for part, images in PUBLISHED.items()}
    counts = {f"{args.labels}_{part}": count_boxes(coco) for part, coco in contents.items()}
    for line in count_warnings(counts, published):
        print(line)


if __name__ == "__main__":
    run(PARSER, main)
