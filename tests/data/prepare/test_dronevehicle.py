"""prepare_dronevehicle.py on a generated release in its true layout."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from helpers.oriented import corner_distance
from PIL import Image

from ivtuning.data.mappers.pairs import PairedDatasetMapper
from ivtuning.data.verify.verification import verify
from ivtuning.errors import UserError
from ivtuning.oriented.boxes import corners

# In pixels of the inner image: center x, center y, width, height, angle.
CAR, FAR_CAR, BUS = [100, 100, 40, 20, 30], [300, 200, 40, 20, -70], [500, 400, 90, 30, 10]


def label(path, *objects) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    items = []
    for name, box in objects:
        points = corners(torch.tensor(box, dtype=torch.float64)).numpy() if len(box) == 5 else np.array(box)
        tags = "".join(
            f"<x{i}>{x + 100:.2f}</x{i}><y{i}>{y + 100:.2f}</y{i}>" for i, (x, y) in enumerate(points, 1)
        )
        items.append(f"<object><name>{name}</name><difficult>0</difficult><polygon>{tags}</polygon></object>")
    path.write_text(f"<annotation><filename>{path.stem}</filename>{''.join(items)}</annotation>")


@pytest.fixture
def release(tmp_path):
    root = tmp_path / "DroneVehicle"
    rng = np.random.default_rng(0)
    for part in ("train", "val"):
        for stem in ("00001", "00002"):
            for folder, channels in (("img", 3), ("imgr", 1)):
                image = np.full((712, 840, 3), 255, np.uint8)
                image[100:-100, 100:-100] = rng.integers(0, 200, (512, 640, channels), np.uint8)
                path = root / part / f"{part}{folder}" / f"{stem}.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(image).save(path, quality=95, subsampling=0)
            moved = [CAR[0] + 2, *CAR[1:]]
            label(
                root / part / f"{part}label" / f"{stem}.xml", ("car", CAR), ("feright_car", BUS), ("*", BUS)
            )
            label(
                root / part / f"{part}labelr" / f"{stem}.xml",
                ("car", moved),
                ("car", FAR_CAR),
                ("truvk", BUS),
            )
    return root


def prepare(script, release, *more):
    script("prepare_dronevehicle")(["--source", str(release), *more])


def objects_of(sets, name) -> list[tuple]:
    content = json.loads((sets / f"dronevehicle/annotations/{name}.json").read_text())
    names = {c["id"]: c["name"] for c in content["categories"]}
    return [
        (names[a["category_id"]], a.get("modality"), a["bbox"])
        for a in content["annotations"]
        if a["image_id"] == 1
    ]


def test_labels_of_both_images(script, release, sets, capsys):
    prepare(script, release)
    printed = capsys.readouterr().out
    assert "train has 2 images (17990 published)" in printed and "vis (4 files)" in printed
    found = objects_of(sets, "both_train")
    assert [(name, modality) for name, modality, _ in found] == [
        ("car", "both"),
        ("car", "infrared"),
        ("truck", "infrared"),
        ("freight car", "visible"),
    ]
    expected = torch.tensor([[CAR[0] + 2, *CAR[1:]], FAR_CAR, BUS, BUS], dtype=torch.float64)
    boxes = torch.tensor([box for *_, box in found], dtype=torch.float64)
    assert corner_distance(boxes, expected) < 0.05

    record = DatasetCatalog.get("dronevehicle_both_val")[0]
    x = PairedDatasetMapper(is_train=True, oriented=True)(record)
    assert x["image"].shape == x["image_ir"].shape == (3, 512, 640) and len(x["instances"]) == 4
    assert x["image"].float().mean() < 120 and (x["image_ir"][0] == x["image_ir"][1]).all()
    original = np.asarray(Image.open(release / "val/valimg/00001.jpg"))[100:-100, 100:-100]
    assert np.array_equal(x["image"].permute(1, 2, 0).numpy(), original)
    files = {"both": (sets / "dronevehicle/annotations/both_train.json", sets / "dronevehicle")}
    kinds = {finding.kind for finding in verify(files).findings}
    assert not kinds & {"wrong value", "box outside", "degenerate box", "missing"}

    prepare(script, release)
    assert "unchanged" in capsys.readouterr().out


@pytest.mark.parametrize("labels", ["visible", "infrared"])
def test_labels_of_one_image(script, release, sets, labels):
    # The labels of the other modality need not be there.
    other = "labelr" if labels == "visible" else "label"
    for part in ("train", "val"):
        for path in (release / part / f"{part}{other}").iterdir():
            path.unlink()
    prepare(script, release, "--labels", labels)
    names = [(name, modality) for name, modality, _ in objects_of(sets, f"{labels}_val")]
    visible = [("car", None), ("freight car", None)]
    assert names == (visible if labels == "visible" else [("car", None), ("car", None), ("truck", None)])


def test_dry_run_writes_nothing(script, release, sets, capsys):
    prepare(script, release, "--dry-run")
    assert "would create" in capsys.readouterr().out and not sets.exists()


def crossed(release):
    label(release / "train/trainlabel/00001.xml", ("bus", [[0, 0], [50, 20], [50, 0], [0, 20]]))


def three_points(release):
    label(release / "train/trainlabel/00001.xml", ("bus", [[0, 0], [50, 20], [50, 0]]))


def outside(release):
    label(release / "train/trainlabelr/00002.xml", ("car", [-300, 100, 40, 20, 0]))


def unknown(release):
    label(release / "train/trainlabelr/00002.xml", ("lorry", CAR))


def cut(release):
    Image.new("RGB", (640, 512)).save(release / "val/valimg/00002.jpg")


def unlabeled(release):
    for path in release.glob("val/vallabel*/*.xml"):
        path.rename(path.with_name(f"9{path.name}"))  # those of other pairs


def alone(release):
    (release / "val/valimgr/00002.jpg").unlink()


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (crossed, "none of the 1 boxes of bus can be used: .*00001.xml has one .crosses itself"),
        (three_points, "00001.xml: the box of a bus has 3 points, not four"),
        (outside, "boxes cannot be used, over 2 %: .*00002.xml has one .center outside the image"),
        (unknown, "00002.xml: unknown class 'lorry' .known: car, truck"),
        (cut, "00002.jpg is 640x512, not 840x712: take the release's own images"),
        (unlabeled, "no pair of the val part has a label file in .*DroneVehicle"),
        (alone, "valimg/00002.jpg has no partner val/valimgr/00002.jpg"),
    ],
)
def test_bad_releases_get_one_line(script, release, sets, spoil, words):
    spoil(release)
    with pytest.raises(UserError, match=words) as caught:
        prepare(script, release)
    assert "\n" not in str(caught.value)
    assert not list(sets.rglob("*.png")) and not list(sets.rglob("*.json"))
