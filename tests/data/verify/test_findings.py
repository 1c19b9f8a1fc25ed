"""Every kind of fault is found, and nothing else is blamed."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.scenes import add_box, crop, lost, scene
from PIL import Image

from ivtuning.data.verify.findings import KINDS


def unnamed(root, content):
    del content["images"][1]["ir_file_name"]


def truncated(file):
    def spoil(root, content):
        data = (root / file).read_bytes()
        (root / file).write_bytes(data[: len(data) // 2])

    return spoil


def no_image(file):
    return lambda root, content: (root / file).write_text("not an image")


def unequal(root, content):
    Image.open(root / "ir/2.png").resize((40, 40)).save(root / "ir/2.png")


def stated_wrong(root, content):
    content["images"][1]["width"] = 50


def gray_visible(root, content):
    Image.open(root / "vis/2.png").convert("L").save(root / "vis/2.png")


def four_channels(root, content):
    Image.open(root / "ir/2.png").convert("RGBA").save(root / "ir/2.png")


def copied(root, content):
    Image.open(root / "vis/2.png").save(root / "ir/2.png")


def colored(root, content):
    gray = np.asarray(Image.open(root / "ir/2.png"))
    Image.fromarray(np.stack([gray, 255 - gray, gray], 2)).save(root / "ir/2.png")


def repeated(root, content):
    for folder in ("vis", "ir"):
        Image.open(root / f"{folder}/1.png").save(root / f"{folder}/2.png")


def shifted(root, content):
    Image.fromarray(255 - crop(scene(2), 8, 6)).save(root / "ir/2.png")


FAULTS = {
    lost("ir/2.png"): ("missing", "ir/2.png"),
    unnamed: ("no partner", "vis/2.png"),
    truncated("ir/2.png"): ("unreadable", "ir/2.png"),
    no_image("vis/2.png"): ("unreadable", "vis/2.png"),
    unequal: ("unequal sizes", "vis/2.png"),
    stated_wrong: ("wrong size", "vis/2.png"),
    gray_visible: ("channels", "vis/2.png"),
    four_channels: ("channels", "ir/2.png"),
    copied: ("same image", "ir/2.png"),
    colored: ("colored infrared", "ir/2.png"),
    repeated: ("duplicate image", "some_set: vis/2.png"),
    shifted: ("misaligned", "vis/2.png"),
    lambda r, c: add_box(c, bbox=[90, 5, 10, 10]): ("box outside", "annotation 2 of vis/2.png"),
    lambda r, c: add_box(c, bbox=[5, 5, 0, 10]): ("degenerate box", "annotation 2 of vis/2.png"),
    lambda r, c: add_box(c, category_id=9): ("unknown class", "annotation 2 of vis/2.png"),
    lambda r, c: add_box(c, image_id=9): ("unknown image", "annotation 2"),
    lambda r, c: add_box(c, image_id=1): ("duplicate box", "annotation 2 of vis/1.png"),
    lambda r, c: add_box(c, id=1): ("duplicate id", "annotations"),
    lambda r, c: add_box(c, bbox=None): ("wrong value", "annotation 2 of vis/2.png"),
    lambda r, c: c["images"][1].update(width="96"): ("wrong value", "vis/2.png"),
    lambda r, c: c["images"][1].update(ir_file_name="../2.png"): ("outside root", "vis/2.png"),
    lambda r, c: c["categories"].append({"id": 2, "name": "car"}): ("duplicate name", "categories"),
    lambda r, c: add_box(c, segmentation={"size": [1, 1], "counts": [1]}): (
        "bad mask",
        "annotation 2 of vis/2.png",
    ),
    lambda r, c: add_box(c, segmentation=[[5, 5, 15, 15]]): ("short polygon", "annotation 2 of vis/2.png"),
}


@pytest.mark.parametrize("spoil", FAULTS, ids=[kind for kind, _ in FAULTS.values()])
def test_each_fault_is_found(spoil, pairs, tmp_path):
    content, check = pairs
    spoil(tmp_path, content)
    kind, where = FAULTS[spoil]
    report = check()
    matches = [f for f in report.findings if f.kind == kind]
    assert matches and matches[0].where.endswith(where)
    assert KINDS[kind][1] in report.text()
    assert report.count(KINDS[kind][0]) >= 1
    # Nothing else is blamed, but for sizes: unequal ones cannot both be what the JSON says.
    assert {f.kind for f in report.findings} <= {kind, *(["wrong size"] if kind == "unequal sizes" else [])}


def repaint(root, change):
    path = root / "labels/2.png"
    change(Image.open(path)).save(path)


def recolored(image):
    """A palette image of the right indices whose luminance would be something else."""
    image = image.copy()
    image.putpalette([200, 10, 30, 5, 250, 90] + [9] * 18)
    assert image.mode == "P"
    return image


def luminance(root, content):
    repaint(root, lambda image: recolored(image).convert("L"))


def filled(value):
    return lambda root, content: repaint(root, lambda image: Image.new("L", image.size, value))


LABEL_FAULTS = {
    lost("labels/2.png"): "missing",
    truncated("labels/2.png"): "unreadable",
    no_image("labels/2.png"): "unreadable",
    luminance: "unknown value",
    filled(9): "unknown value",
    filled(0): "only background",
    filled(7): "only ignored",
    filled(255): "only ignored",
    lambda r, c: repaint(r, lambda image: image.resize((40, 40), Image.Resampling.NEAREST)): "label size",
    lambda r, c: repaint(r, lambda image: recolored(image).convert("RGB")): "label mode",
}


@pytest.mark.parametrize("spoil", LABEL_FAULTS, ids=LABEL_FAULTS.values())
def test_each_label_fault_is_found(spoil, labeled, tmp_path):
    content, check = labeled
    spoil(tmp_path, content)
    report = check()
    assert [(f.kind, f.where) for f in report.findings] == [(LABEL_FAULTS[spoil], "labels/2.png")]
    read = 2 if report.count("error") else 3
    assert f"3 images, {read} label maps" in report.text()


def test_palette_gives_its_index(labeled, tmp_path):
    repaint(tmp_path, recolored)
    assert labeled[1]().findings == []


@pytest.mark.parametrize(
    "change, where",
    [
        ({"id": "car", "name": "car", "color": [1, 1, 1]}, "categories[0]"),
        ({"id": 1, "name": "car"}, "category 1 (car)"),
    ],
)
def test_faulty_categories_of_label_maps_are_found(change, where, labeled):
    content, check = labeled
    content["categories"] = [change]
    assert [(f.kind, f.where) for f in check().findings] == [("wrong value", where)]


def test_every_kind_has_a_test():
    # The last two need two sets.
    tested = {kind for kind, _ in FAULTS.values()} | set(LABEL_FAULTS.values())
    tested |= {"shared image", "shared group"}
    assert tested == set(KINDS)
