"""Convert the KAIST multispectral pedestrians to COCO JSON: annotations/<labels>_{train,test}.json.

All frames with sanitized or paired labels train, and every 20th frame of sets 06 to 11 is tested, on the
improved labels. With --labels original, every 20th frame of the first release trains and is tested.
"""

from __future__ import annotations

from options import prepare_parser, run

# Numbers of images that papers state.
PUBLISHED = {"sanitized_train": 7601, "sanitized_test": 2252}

PARSER = prepare_parser(__doc__, "python datasets/prepare_kaist.py --source /data/kaist-rgbt", "kaist")
PARSER.add_argument(
    "--labels",
    default="sanitized",
    choices=["sanitized", "paired_visible", "paired_infrared", "paired_both", "original"],
    help="of training: sanitized (default), of one camera or all objects of both, each with its modality "
    "(paired), or the first release's",
)


def main(argv=None) -> None:
    args = PARSER.parse_args(argv)
    from ivtuning.data.catalog import data_root
    from ivtuning.data.prepare.coco import write_set
    from ivtuning.data.prepare.pedestrians import (
        PERSON,
        kaist_pairs,
        kaist_time,
        read_kaist,
        read_kaist_pair,
    )

    output = args.output or data_root() / "kaist"
    source = args.source or output
    write_set(
        {part: kaist_pairs(source, args.labels, part) for part in ("train", "test")},
        [PERSON],
        read_kaist_pair if args.labels == "paired_both" else read_kaist,
        source=source,
        output=output,
        split=args.labels,
        description=f"KAIST multispectral pedestrians, {args.labels} labels",
        time=kaist_time,
        published={name: {"images": images} for name, images in PUBLISHED.items()},
        dry_run=args.dry_run,
    )


if __name__ == "__main__":
    run(PARSER, main)
