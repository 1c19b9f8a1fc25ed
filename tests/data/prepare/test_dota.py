"""prepare_dota.py on a generated release in its true layout, and merge_tiles.py on detections in tiles."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from helpers.oriented import corner_distance, shared_area
from PIL import Image

from ivtuning.data.mappers.pairs import PairedDatasetMapper
from ivtuning.data.prepare.tiles import merge, starts
from ivtuning.errors import UserError
from ivtuning.oriented.boxes import corners

WIDTH, HEIGHT, SIZE, OVERLAP = 300, 200, 128, 48
# Far from each other, so that suppression removes nothing but copies.
BOXES = torch.tensor(
    [
        [40, 40, 30, 12, 20],
        [100, 60, 40, 14, -50],
        [180, 50, 36, 10, 80],
        [250, 120, 44, 16, 5],
        [60, 150, 40, 12, 140],
    ]
).double()
NAMES = ["ship", "plane", "ship", "harbor", "plane"]


def write_release(root, names=NAMES, boxes=BOXES, folder="labelTxt", labeled=("train", "val")) -> None:
    rng = np.random.default_rng(0)
    for part in ("train", "val", "test"):
        (root / part / "images").mkdir(parents=True)
        for stem, size in (("P0001", (HEIGHT, WIDTH)), ("P0002", (90, 100))):
            image = rng.integers(0, 255, (*size, 3), np.uint8)
            Image.fromarray(image).save(root / part / "images" / f"{stem}.png")
        if part not in labeled:
            continue
        (root / part / folder).mkdir()
        lines = ["imagesource:GoogleEarth", "gsd:0.146343590398"]
        for name, box in zip(names, boxes, strict=True):
            points = " ".join(f"{v:.2f}" for v in corners(box).flatten().tolist())
            lines.append(f"{points} {name} {int(name == 'harbor')}")
        (root / part / folder / "P0001.txt").write_text("\n".join(lines) + "\n")
        (root / part / folder / "P0002.txt").write_text("\n".join(lines[:3]) + "\n")


@pytest.fixture
def prepared(script, sets, tmp_path):
    write_release(tmp_path / "DOTA")
    script("prepare_dota")(
        ["--source", str(tmp_path / "DOTA"), "--size", str(SIZE), "--overlap", str(OVERLAP)]
    )
    return sets / "dota"


def read(prepared, name) -> dict:
    return json.loads((prepared / f"annotations/{name}.json").read_text())


def test_tiles_cover_the_image():
    for length in (1, 127, 128, 129, 200, 300, 1000):
        places = starts(length, SIZE, OVERLAP)
        assert places[0] == 0 and max(places[-1] + SIZE, length) == max(length, SIZE)
        assert all(0 < b - a <= SIZE - OVERLAP for a, b in zip(places, places[1:], strict=False))
    assert starts(1024, 1024, 200) == [0] and starts(1848, 1024, 200) == [0, 824]


def test_objects_are_where_they_were(prepared, tmp_path):
    content = read(prepared, "tiles_train")
    tiles = {image["id"]: image for image in content["images"]}
    assert len([t for t in tiles.values() if t["group"] == "P0001"]) == 4 * 2
    whole = np.asarray(Image.open(tmp_path / "DOTA/train/images/P0001.png"))
    for tile in tiles.values():
        if tile["group"] == "P0001":
            x, y = tile["tile"]["x"], tile["tile"]["y"]
            pixels = np.asarray(Image.open(prepared / tile["file_name"]))
            assert np.array_equal(pixels, whole[y : y + tile["height"], x : x + tile["width"]])
    seen = Counter()
    for a in content["annotations"]:
        tile = tiles[a["image_id"]]
        box = torch.tensor(a["bbox"], dtype=torch.float64)
        box[:2] += torch.tensor([tile["tile"]["x"], tile["tile"]["y"]])
        distances = [corner_distance(box[None], other[None]) for other in BOXES]
        index = int(np.argmin(distances))
        assert distances[index] < 0.05 and content["categories"][a["category_id"] - 1]["name"] == NAMES[index]
        frame = torch.tensor([tile["width"] / 2, tile["height"] / 2, tile["width"], tile["height"], 0.0])
        share = shared_area(torch.tensor(a["bbox"]), frame) / (a["bbox"][2] * a["bbox"][3])
        assert a["iscrowd"] == int(share < 0.7 or NAMES[index] == "harbor")
        seen[index] += share >= 0.7
    assert set(seen) == set(range(5)) and min(seen.values()) >= 1

    record = DatasetCatalog.get("dota_tiles_train")[0]
    x = PairedDatasetMapper(is_train=True, oriented=True)(record)
    assert "image_ir" not in x and x["image"].shape == (3, SIZE, SIZE) and len(x["instances"]) >= 2
    assert (
        read(prepared, "tiles_test")["annotations"] == [] and len(DatasetCatalog.get("dota_tiles_test")) == 9
    )
    assert DatasetCatalog.get("dota_whole_val")[0]["file_name"] == str(tmp_path / "DOTA/val/images/P0001.png")


def test_perfect_predictions_in_tiles_are_perfect_in_whole_images(prepared, script, tmp_path, capsys):
    found = [
        {key: a[key] for key in ("image_id", "category_id", "bbox")} | {"score": 0.5 + i / 1000}
        for i, a in enumerate(read(prepared, "tiles_val")["annotations"])
    ]
    (tmp_path / "predictions.json").write_text(json.dumps(found))
    argv = [
        "--predictions",
        str(tmp_path / "predictions.json"),
        "--part",
        "val",
        "--output",
        str(tmp_path / "out"),
    ]
    script("merge_tiles")(argv)
    printed = capsys.readouterr().out
    assert f"{len(found)} detections in tiles are 6 in 2 images" in printed
    figures = dict(line.split() for line in printed.splitlines() if line.startswith("AP"))
    assert figures["AP50"] == figures["AP50_11point-ship"] == figures["AP-plane"] == "100.00"
    assert figures["AP50-harbor"] == "nan"  # difficult
    lines = (tmp_path / "out/Task1_ship.txt").read_text().splitlines()
    assert len(lines) == 3 and {line.split()[0] for line in lines} == {"P0001", "P0002"}
    assert all(len(line.split()) == 10 for line in lines)
    assert (tmp_path / "out/Task1_helicopter.txt").read_text() == ""
    merged = json.loads((tmp_path / "out/merged.json").read_text())
    boxes = torch.tensor([r["bbox"] for r in merged if r["image_id"] == 1], dtype=torch.float64)
    assert max(min(corner_distance(b[None], o[None]) for o in BOXES) for b in boxes) < 0.05


def test_star_has_its_own_classes_and_labels_of_the_test_part(script, sets, tmp_path, capsys):
    names = ["goods_yard", "tank", "tank", "containment_vessel", "ship"]
    release, parts = tmp_path / "STAR", ("train", "val", "test")
    write_release(release, names, folder="labels", labeled=parts)
    argv = ["--set", "star", "--source", str(release), "--size", str(SIZE), "--overlap", str(OVERLAP)]
    script("prepare_dota")([*argv, "--labels", "labels"])
    for part in parts:
        content = read(sets / "star", f"whole_{part}")
        assert len(content["categories"]) == len({c["name"] for c in content["categories"]}) == 48
        found = [content["categories"][a["category_id"] - 1]["name"] for a in content["annotations"]]
        assert found == [*names, names[0]]
        assert content["info"]["description"] == "STAR, whole"
        assert len(DatasetCatalog.get(f"star_tiles_{part}")) == 9

    predictions = [
        {key: a[key] for key in ("image_id", "category_id", "bbox")} | {"score": 0.5}
        for a in read(sets / "star", "tiles_test")["annotations"]
    ]
    (tmp_path / "predictions.json").write_text(json.dumps(predictions))
    files = ["--predictions", str(tmp_path / "predictions.json"), "--output", str(tmp_path / "out")]
    script("merge_tiles")([*files, "--set", "star", "--part", "test", "--iou", "0.4"])
    assert "AP50_11point                     100.00" in capsys.readouterr().out


def test_merging_keeps_the_best_of_each_class():
    images = [{"id": i, "tile": {"image": "P", "x": 50 * i, "y": 0}} for i in (1, 2)]
    tiles = {"images": images, "categories": [{"id": i} for i in (1, 2)]}
    one, other = [60, 20, 30, 10, 5], [10, 20, 30, 10, 5]
    results = [
        {"image_id": 1, "category_id": 1, "bbox": one, "score": 0.3},
        {"image_id": 2, "category_id": 1, "bbox": other, "score": 0.9},
        {"image_id": 2, "category_id": 2, "bbox": other, "score": 0.1},
    ]
    merged = merge(results, tiles, {"P": 7}, 0.1)
    assert [(r["image_id"], r["category_id"], r["score"]) for r in merged] == [(7, 1, 0.9), (7, 2, 0.1)]
    assert merged[0]["bbox"] == [110, 20, 30, 10, 5]
    for bad, words in (
        ([{"image_id": 9, "category_id": 1, "bbox": one, "score": 1}], "result 0 is of image 9"),
        ([{"image_id": 1, "category_id": 1, "bbox": one[:4], "score": 1}], "result 0 has no bbox of five"),
        ([7], "result 0 has no bbox"),
        (
            [{"image_id": 1, "category_id": 1, "bbox": one}],
            "result 0 has no bbox of five numbers and a score",
        ),
        ([{"image_id": 1, "category_id": 1, "bbox": [*one[:4], "x"], "score": 1}], "result 0 has no bbox"),
        ([{"image_id": [1], "category_id": 1, "bbox": one, "score": 1}], r"result 0 is of image \[1\]"),
        ([{"image_id": 1, "category_id": 3, "bbox": one, "score": 1}], "result 0 has the category 3"),
    ):
        with pytest.raises(UserError, match=words):
            merge(bad, tiles, {"P": 7}, 0.1)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("1 1 9 1 9 9 ship 0", r"P0001.txt:3: expected `x1 y1 ... x4 y4 class difficult`"),
        ("1 1 9 1 9 9 1 9 boat 0", r"P0001.txt:3: unknown class 'boat' \(known: plane"),
        ("1 1 9 1 9 9 1 x ship 0", r"P0001.txt:3 is not 8 numbers"),
        ("1 1 90 90 90 1 1 90 ship 0", "none of the 1 boxes of ship can be used: .*crosses itself"),
    ],
)
def test_bad_labels_get_one_line(script, sets, tmp_path, line, words):
    write_release(tmp_path / "DOTA", [], [])
    path = tmp_path / "DOTA/train/labelTxt/P0001.txt"
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(UserError, match=words) as caught:
        script("prepare_dota")(["--source", str(tmp_path / "DOTA")])
    assert "\n" not in str(caught.value) and not list(sets.rglob("*.*"))


def test_bad_tilings_and_releases(script, sets, tmp_path):
    with pytest.raises(UserError, match="--size 100 --overlap 100: give a size"):
        script("prepare_dota")(["--source", str(tmp_path), "--size", "100", "--overlap", "100"])
    with pytest.raises(UserError, match="train/images is missing: is --source the folder"):
        script("prepare_dota")(["--source", str(tmp_path)])
    with pytest.raises(UserError, match="--version 1.5 is of DOTA: leave it out with --set star"):
        script("prepare_dota")(["--set", "star", "--version", "1.5"])
    write_release(tmp_path)
    with pytest.raises(
        UserError, match="train/annfiles is missing: name the folder of the labels with --labels"
    ):
        script("prepare_dota")(["--set", "star", "--source", str(tmp_path)])
    (tmp_path / "val/labelTxt/P0002.txt").unlink()
    with pytest.raises(UserError, match="val/images/P0002.png has no label file .*val/labelTxt/P0002.txt"):
        script("prepare_dota")(["--source", str(tmp_path)])
    assert not list(sets.rglob("*.*"))
