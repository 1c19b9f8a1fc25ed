"""Convert the DroneVehicle release to COCO JSON with oriented boxes, and copy the inside of its images.

Images of the release have a white border of 100 px; the copies are the inner 640x512 pixels, as PNG.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from options import prepare_parser, run

CLASSES = ["car", "truck", "bus", "van", "freight car"]
# Spellings of the release, and objects that it leaves unnamed.
SPELLINGS = {
    "feright car": 4,
    "feright_car": 4,
    "feright": 4,
    "freight_car": 4,
    "freight": 4,
    "truvk": 1,
    "*": None,
    "": None,
}
PUBLISHED = {"train": 17990, "val": 1469, "test": 8980}
BORDER, SIZE = 100, (840, 712)

PARSER = prepare_parser(
    __doc__, "python datasets/prepare_dronevehicle.py --source /data/DroneVehicle", "dronevehicle"
)
PARSER.add_argument(
    "--labels",
    default="both",
    choices=["visible", "infrared", "both"],
    help="whose labels: of one image's annotators, or all objects of both (default), each with its modality",
)


def main(argv=None) -> None:
    args = PARSER.parse_args(argv)
    from ivtuning.data.catalog import data_root
    from ivtuning.data.prepare.coco import check_labeled, write_parts
    from ivtuning.data.prepare.pairing import check_stems, files_by_stem
    from ivtuning.data.prepare.segmentation import Copies
    from ivtuning.errors import UserError
    from ivtuning.utils.files import StagedFiles

    output = args.output or data_root() / "dronevehicle"
    source = args.source or output
    if not (source / "train").is_dir():
        raise UserError(f"{source / 'train'} is missing: is --source the folder of the release?")
    parts = {}
    for part in PUBLISHED:
        if not (source / part).is_dir():
            continue
        files = {
            key: files_by_stem(source, f"{part}/{part}{folder}/*.{suffix}")
            for key, folder, suffix in (
                ("visible", "img", "jpg"),
                ("infrared", "imgr", "jpg"),
                ("visible label", "label", "xml"),
                ("infrared label", "labelr", "xml"),
            )
            if args.labels == "both" or not key.endswith("label") or key.startswith(args.labels)
        }
        check_stems(
            files["visible"],
            files["infrared"],
            lambda stem, side, part=part: f"{part}/{part}img{'r' * (side == 'infrared')}/{stem}.jpg",
        )
        parts[part] = files
    with StagedFiles(args.dry_run, "choose a writable place with --output") as staged:
        copies = Copies(output, staged)
        made = {part: _assemble(part, files, copies) for part, files in parts.items()}
        check_labeled(made, source)
        print(*copies.lines(), sep="\n")
        write_parts(
            made,
            output,
            output,
            args.labels,
            f"DroneVehicle pairs with oriented boxes, labels: {args.labels}",
            published={f"{args.labels}_{part}": {"images": images} for part, images in PUBLISHED.items()},
            staged=staged,
        )
        staged.commit()


def _assemble(part: str, files: dict[str, dict[str, Path]], copies) -> tuple[dict, dict]:
    """The COCO content of a part, without info, and what was left out."""
    from ivtuning.data.prepare.oriented import Dropped, annotation, objects_of, read_polygons, usable
    from ivtuning.utils.progress import track

    known = {name: i for i, name in enumerate(CLASSES)} | SPELLINGS
    width, height = size = tuple(side - 2 * BORDER for side in SIZE)
    images, annotations, jobs, dropped, unlabeled = [], [], [], Dropped(), 0
    for stem, visible in files["visible"].items():
        sides = {side: files[f"{side} label"] for side in ("visible", "infrared") if f"{side} label" in files}
        if not all(stem in labels for labels in sides.values()):
            unlabeled += 1
            continue
        number = len(images) + 1
        names = {"file_name": ("vis", visible), "ir_file_name": ("ir", files["infrared"][stem])}
        image = {"id": number}
        for key, (folder, path) in names.items():
            image[key] = f"{folder}/{part}/{stem}.png"
            jobs.append((image[key], path, folder == "ir"))
        images.append(image | {"height": height, "width": width})
        read = {}
        for side, labels in sides.items():
            boxes = [b._replace(corners=b.corners - BORDER) for b in read_polygons(labels[stem], known)]
            read[side] = usable(boxes, size, dropped, labels[stem])
        if len(read) == 2:
            both = objects_of(read["visible"], read["infrared"])
            objects = [(*entry, {"modality": modality}) for *entry, modality in both]
        else:
            objects = [(*entry, {}) for entry in next(iter(read.values()))]
        for box, values, more in objects:
            annotations.append(annotation(len(annotations) + 1, number, box, values, **more))
    counts = dropped.check(CLASSES, part)
    with ThreadPoolExecutor() as pool:
        for _ in track(
            pool.map(lambda job: copies.put(job[0], _inner(*job[1:])), jobs), part, total=len(jobs)
        ):
            pass
    if unlabeled:
        counts["pairs skipped: no label file"] = unlabeled
    categories = [{"id": i, "name": name} for i, name in enumerate(CLASSES, 1)]
    return {"images": images, "annotations": annotations, "categories": categories}, counts


def _inner(path: Path, gray: bool):
    """The pixels inside the border: (H, W) if `gray`, else (H, W, 3) RGB, uint8."""
    import numpy as np

    from ivtuning.data.image_files import decode
    from ivtuning.errors import UserError

    image, _ = decode(path, "image")
    if image.size != SIZE:
        raise UserError(
            f"{path} is {image.width}x{image.height}, not {SIZE[0]}x{SIZE[1]}: take the release's own "
            "images, with their border"
        )
    inside = image.convert("L" if gray else "RGB").crop((BORDER, BORDER, SIZE[0] - BORDER, SIZE[1] - BORDER))
    return np.asarray(inside)


if __name__ == "__main__":
    run(PARSER, main)
