"""Convert the LLVIP release to COCO JSON: annotations/default_{train,val}.json (official train and test)."""

from __future__ import annotations

from options import prepare_parser, run

# Part of the JSON -> the release's folder.
PARTS = {"train": "train", "val": "test"}
PUBLISHED = {"default_train": {"images": 12025}, "default_val": {"images": 3463}}

PARSER = prepare_parser(__doc__, "python datasets/prepare_llvip.py --source /data/LLVIP", "llvip")


def main(argv=None) -> None:
    args = PARSER.parse_args(argv)
    from ivtuning.data.annotations import read_voc
    from ivtuning.data.catalog import data_root
    from ivtuning.data.prepare.coco import write_set
    from ivtuning.data.prepare.pairing import find_pairs

    output = args.output or data_root() / "llvip"
    source = args.source or output
    parts = {
        part: find_pairs(source, f"visible/{folder}/*.jpg", f"infrared/{folder}/*.jpg", "Annotations/*.xml")
        for part, folder in PARTS.items()
    }
    write_set(
        parts,
        ["person"],
        lambda path, size: read_voc(path, ["person"], size),
        source=source,
        output=output,
        split="default",
        description="LLVIP pedestrians, official parts",
        published=PUBLISHED,
        dry_run=args.dry_run,
    )


if __name__ == "__main__":
    run(PARSER, main)
