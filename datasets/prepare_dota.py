"""Convert a release of DOTA or STAR to COCO JSON with oriented boxes, and cut its images into tiles.

Every part has annotations/tiles_<part>.json, to train and predict on, and annotations/whole_<part>.json with
the images as they are, against which merge_tiles.py evaluates. Tiles are written as PNG. The test part may
lack labels.
"""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from options import prepare_parser, run

DOTA = [
    *("plane", "baseball-diamond", "bridge", "ground-track-field", "small-vehicle", "large-vehicle", "ship"),
    *("tennis-court", "basketball-court", "storage-tank", "soccer-ball-field", "roundabout", "harbor"),
    *("swimming-pool", "helicopter"),
]
# Added by later versions, in this order.
LATER = {"1.0": [], "1.5": ["container-crane"], "2.0": ["container-crane", "airport", "helipad"]}
STAR = [
    *("ship", "boat", "crane", "goods_yard", "tank", "storehouse", "breakwater", "dock", "airplane"),
    *("boarding_bridge", "runway", "taxiway", "terminal", "apron", "gas_station", "truck", "car"),
    *("truck_parking", "car_parking", "bridge", "cooling_tower", "chimney", "vapor", "smoke", "genset"),
    *("coal_yard", "lattice_tower", "substation", "wind_mill", "cement_concrete_pavement", "toll_gate"),
    *("flood_dam", "gravity_dam", "ship_lock", "ground_track_field", "basketball_court"),
    *("engineering_vehicle", "foundation_pit", "intersection", "soccer_ball_field", "tennis_court"),
    *("tower_crane", "unfinished_building", "arch_dam", "roundabout", "baseball_diamond", "stadium"),
    "containment_vessel",
]
# Folder of the labels of a part, beside images/.
LABELS = {"dota": "labelTxt", "star": "annfiles"}

PARSER = prepare_parser(__doc__, "python datasets/prepare_dota.py --source /data/DOTA", "<set>")
PARSER.add_argument("--set", default="dota", choices=list(LABELS), help="which release (default dota)")
PARSER.add_argument("--version", choices=list(LATER), help="which classes DOTA has (default 1.0)")
PARSER.add_argument(
    "--labels", help="folder of the labels beside images/ (default labelTxt, for STAR annfiles)"
)
PARSER.add_argument("--size", type=int, default=1024, help="side of a tile in pixels (default 1024)")
PARSER.add_argument("--overlap", type=int, default=200, help="of neighboring tiles in pixels (default 200)")


def main(argv=None) -> None:
    args = PARSER.parse_args(argv)
    from ivtuning.data.catalog import data_root
    from ivtuning.data.prepare.coco import check_labeled, write_parts
    from ivtuning.data.prepare.pairing import files_by_stem
    from ivtuning.data.prepare.segmentation import Copies
    from ivtuning.data.prepare.tiles import check_tiling
    from ivtuning.errors import UserError
    from ivtuning.utils.files import StagedFiles

    check_tiling(args.size, args.overlap)
    if args.set == "dota":
        version = args.version or "1.0"
        classes, release = DOTA + LATER[version], f"DOTA-v{version}"
    elif args.version:
        raise UserError(f"--version {args.version} is of DOTA: leave it out with --set {args.set}")
    else:
        classes, release = STAR, "STAR"
    folder = args.labels or LABELS[args.set]
    output = args.output or data_root() / args.set
    source = args.source or output
    parts = {}
    for part in ("train", "val", "test"):
        if not (source / part / "images").is_dir():
            continue
        images = files_by_stem(source, f"{part}/images/*.png")
        labeled = (source / part / folder).is_dir()
        if not labeled and part != "test":
            raise UserError(
                f"{source / part / folder} is missing: name the folder of the labels with --labels"
            )
        labels = files_by_stem(source, f"{part}/{folder}/*.txt") if labeled else {}
        if labeled and (bare := sorted(images.keys() - labels.keys())):
            raise UserError(f"{images[bare[0]]} has no label file {source / part}/{folder}/{bare[0]}.txt")
        parts[part] = images, labels
    if not parts:
        raise UserError(f"{source}/train/images is missing: is --source the folder of the release?")
    with StagedFiles(args.dry_run, "choose a writable place with --output") as staged:
        copies = Copies(output, staged)
        made = {
            part: _assemble(part, *files, source, classes, args.size, args.overlap, copies)
            for part, files in parts.items()
        }
        for index in (0, 1):
            check_labeled({part: content[index] for part, content in made.items()}, source)
        print(*copies.lines(), sep="\n")
        for index, kind, root in ((0, "tiles", output), (1, "whole", source)):
            contents = {part: content[index] for part, content in made.items()}
            write_parts(contents, root, output, kind, f"{release}, {kind}", staged=staged)
        staged.commit()


def _assemble(part, images, labels, source, classes, size, overlap, copies):
    """The COCO content of the tiles of a part and that of its whole images, each with what was left out."""
    from ivtuning.data.prepare.oriented import Dropped, annotation, read_dota, usable
    from ivtuning.data.prepare.tiles import WHOLE, in_tile
    from ivtuning.utils.progress import track

    categories = [{"id": i, "name": name} for i, name in enumerate(classes, 1)]
    tiles, wholes = ({"images": [], "annotations": [], "categories": categories} for _ in range(2))
    dropped, counts = Dropped(), Counter()
    with ThreadPoolExecutor(max_workers=4) as pool:
        cut = pool.map(partial(_cut, part, size, overlap, copies), images.items())
        for (stem, path), (width, height, places) in track(
            zip(images.items(), cut, strict=True), part, total=len(images)
        ):
            number = len(wholes["images"]) + 1
            entry = {"missing": "infrared", "group": stem}
            wholes["images"].append(
                {
                    "id": number,
                    "file_name": path.relative_to(source).as_posix(),
                    "height": height,
                    "width": width,
                }
                | entry
            )
            read = read_dota(labels[stem], classes) if stem in labels else []
            kept = usable(read, (width, height), dropped, labels.get(stem, path))
            for box, values in kept:
                wholes["annotations"].append(annotation(len(wholes["annotations"]) + 1, number, box, values))
            for name, x, y, w, h in places:
                number = len(tiles["images"]) + 1
                place = {"tile": {"image": stem, "x": x, "y": y}}
                tiles["images"].append(
                    {"id": number, "file_name": name, "height": h, "width": w} | entry | place
                )
                shares = in_tile(_stacked(kept), x, y, w, h)
                for (box, values), share in zip(kept, shares, strict=True):
                    at = values - [x, y, 0, 0, 0]
                    if not share or (at[:2] < 0).any() or at[0] > w or at[1] > h:
                        continue
                    counts[f"boxes in tiles that show under {WHOLE:.0%} of them (crowd)"] += share < WHOLE
                    box = box._replace(crowd=box.crowd or share < WHOLE)
                    tiles["annotations"].append(annotation(len(tiles["annotations"]) + 1, number, box, at))
    lost = dropped.check(classes, part)
    return (tiles, +counts), (wholes, lost)


def _stacked(kept):
    import numpy as np

    return np.array([values for _, values in kept]).reshape(-1, 5)


def _cut(part, size, overlap, copies, item):
    """Width and height of an image, and (name, x, y, width, height) of its tiles, which are staged."""
    import cv2

    from ivtuning.data.prepare.tiles import starts
    from ivtuning.errors import UserError

    stem, path = item
    # OpenCV, because Pillow refuses images of some hundred megapixels.
    pixels = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if pixels is None:
        raise UserError(f"image {path} cannot be read: fetch it again")
    height, width = pixels.shape[:2]
    places = []
    for y in starts(height, size, overlap):
        for x in starts(width, size, overlap):
            name = f"tiles/{part}/{stem}__{x}__{y}.png"
            tile = pixels[y : y + size, x : x + size]
            copies.put(name, tile[..., ::-1])
            places.append((name, x, y, tile.shape[1], tile.shape[0]))
    return width, height, places


if __name__ == "__main__":
    run(PARSER, main)
