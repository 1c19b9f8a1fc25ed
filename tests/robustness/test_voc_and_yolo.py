"""Faults of labels in VOC XML and YOLO files, and of the images beside them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from helpers.isolation import Case, refuse, run
from PIL import Image

W, H = 40, 30
BOX = "<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>11</xmax><ymax>8</ymax></bndbox>"
VOC = "datasets/prepare_pairs.py"
PATTERNS = ["--vis", "vis/*.png", "--ir", "ir/*.png", "--labels", "xml/*.xml"]
ARGV = ["--set", "own", "--source", ".", "--output", "out", *PATTERNS, "--split", "own=val.txt"]
COLOR = np.random.default_rng(0).integers(0, 255, (H, W, 3), np.uint8)


def annotation(*objects: str, size=(W, H)) -> str:
    stated = "<size><width>{}</width><height>{}</height></size>".format(*size)
    return f"<annotation>{stated}{''.join(objects)}</annotation>"


def thing(place: str = BOX, name: str = "car") -> str:
    return f"<object><name>{name}</name>{place}</object>"


def release(folder: Path, **changes) -> list[str]:
    """Four pairs with a car each, of which two validate; `changes` are the texts of files by their stems."""
    for kind in ("vis", "ir", "xml"):
        (folder / kind).mkdir()
    for number in range(1, 5):
        Image.fromarray(COLOR).save(folder / f"vis/{number}.png")
        Image.fromarray(COLOR[..., 0]).save(folder / f"ir/{number}.png")
        (folder / f"xml/{number}.xml").write_text(changes.get(f"_{number}", annotation(thing())))
    (folder / "val.txt").write_text("3\n4\n")
    return [*ARGV, "--classes", "car"]


def labels(text: str):
    """Prepare a release in which `text` is the label file of pair 1."""
    return lambda folder: release(folder, _1=text)


def swapped(folder: Path) -> list[str]:
    argv = release(folder)
    for path in (folder / "vis").iterdir():
        Image.open(path).convert("L").convert("RGB").save(path)
    for path in (folder / "ir").iterdir():
        Image.fromarray(COLOR).save(path)
    return argv


def changed(change):
    """Prepare a release that `change(folder)` spoils."""

    def prepare(folder: Path) -> list[str]:
        argv = release(folder)
        return change(folder) or argv

    return prepare


def pipe(folder: Path) -> None:
    (folder / "ir/2.png").unlink()
    os.mkfifo(folder / "ir/2.png")


def place(*values) -> str:
    return "<bndbox>{}</bndbox>".format(
        "".join(f"<{n}>{v}</{n}>" for n, v in zip(("xmin", "ymin", "xmax", "ymax"), values, strict=True))
    )


CASES = [
    Case("another size", VOC, labels(annotation(thing(), size=(80, 60))), ["xml/1.xml", "80x60", "40x30"]),
    Case("width and height for corners", VOC, labels(annotation(thing(place(20, 9, 10, 6)))), ["xml/1.xml"]),
    Case("all boxes outside", VOC, labels(annotation(thing(place(50, 50, 60, 60)))), ["xml/1.xml", "1 of 2"]),
    Case("entities", VOC, labels('<!DOCTYPE a [<!ENTITY b "b">]><a>&b;</a>'), ["xml/1.xml", "DOCTYPE"]),
    Case("folders swapped", VOC, swapped, ["vis/1.png", "ir/1.png", "swap the two folders"]),
    Case(
        "gray visible",
        VOC,
        changed(
            lambda folder: [Image.open(p).convert("L").save(p) for p in (folder / "vis").iterdir()] and None
        ),
        ["vis/1.png", "--gray-visible"],
    ),
    Case("named pipe", VOC, changed(pipe), ["ir/2.png", "not a file"]),
    Case("class twice", VOC, changed(lambda _: [*ARGV, "--classes", "car, Car"]), ["--classes", "twice"]),
    Case("class without name", VOC, changed(lambda _: [*ARGV, "--classes", "car,"]), ["--classes", "empty"]),
    Case(
        "class ignored and wanted",
        VOC,
        changed(lambda _: [*ARGV, "--classes", "car", "--ignore", "dog, Car"]),
        ["'car'", "--ignore"],
    ),
    Case("set with a path", VOC, changed(lambda _: [*ARGV, "--set", "../own"]), ["--set", "../own"]),
    Case(
        "pattern outside",
        VOC,
        changed(lambda _: [*ARGV, "--vis", "../*.png"]),
        ["/*.png is outside", "--source"],
    ),
    Case("unknown option", VOC, changed(lambda _: [*ARGV, "--clases", "car"]), ["--clases", "--help"]),
    Case("no number", "datasets/prepare_m3fd.py", changed(lambda _: ["--seed", "one"]), ["one", "--help"]),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_faults_of_labels_and_options_are_refused(case, tmp_path):
    refuse(case, tmp_path)


def test_gray_visible_images_on_request(tmp_path):
    folder = tmp_path / "work"
    folder.mkdir()
    argv = release(folder)
    for number, path in enumerate((folder / "vis").iterdir()):
        Image.open(path).convert("L").rotate(90 * number).save(path)
    outcome = run(VOC, [*argv, "--gray-visible"], folder)
    assert outcome.code == 0, outcome.err
    check = ["out/annotations/own_val.json", "--image-root", "."]
    assert run("datasets/check_pairs.py", check, folder).code == 1
    outcome = run("datasets/check_pairs.py", [*check, "--gray-visible"], folder)
    assert outcome.code == 0, outcome.out + outcome.err


def test_the_files_of_a_mac_are_not_taken_for_images(tmp_path):
    folder = tmp_path / "work"
    folder.mkdir()
    argv = release(folder, _2=annotation(thing().replace("</name>", "</name><difficult>1</difficult>")))
    for kind, suffix in (("vis", "png"), ("ir", "png"), ("xml", "xml")):
        (folder / kind / f"._1.{suffix}").write_bytes(b"\0\5\x16\7")
    outcome = run(VOC, [*argv[:-1], " car , person"], folder)
    assert outcome.code == 0, outcome.err
    content = json.loads((folder / "out/annotations/own_train.json").read_text())
    assert [image["file_name"] for image in content["images"]] == ["vis/1.png", "vis/2.png"]
    assert [box["iscrowd"] for box in content["annotations"]] == [0, 1]
    assert [category["name"] for category in content["categories"]] == ["car", "person"]
    assert "boxes marked difficult (crowd)" in outcome.out
