"""Every segmentation release in its true layout: what is written, and what is copied."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from helpers.segmentation_releases import (
    RELEASES,
    WRITERS,
    H,
    W,
    ade20k,
    content,
    files,
    folders,
    labels,
    mfnet,
    msrs,
    noise,
    pst900,
    records,
    save,
)
from helpers.tools import MSRS
from PIL import Image

from ivtuning.data.catalog import unregister
from ivtuning.data.datasets.segmentation import register_known, register_segmentation
from ivtuning.data.datasets.segmentation_layouts import KNOWN, Part, SegmentationSet
from ivtuning.data.labels import read_labels
from ivtuning.data.verify.verification import verify
from ivtuning.errors import UserError


def test_tool_offers_every_layout(prepare_segmentation):
    assert set(RELEASES) == set(WRITERS)
    with pytest.raises(UserError, match=f"--set msr: give {', '.join(RELEASES)}; did you mean 'msrs'"):
        prepare_segmentation(["--set", "msr"])
    with pytest.raises(UserError, match="--set synthetic: give"):  # which has no release
        prepare_segmentation(["--set", "synthetic"])


def test_a_new_set_is_one_entry(prepare_segmentation, tmp_path, monkeypatch):
    entry = SegmentationSet(
        folder="mine",
        parts={"train": Part("a", 2), "test": Part("b", 2)},
        description="pairs of a test",
        visible="{part}/rgb/*.png",
        infrared="{part}/thermal/*.png",
        labels="{part}/masks/*.png",
        classes={"ground": (0, 0, 0), "tree": (0, 200, 0)},
    )
    monkeypatch.setitem(KNOWN, "mine", entry)
    register_known()
    source = folders(tmp_path / "release", ("a", "b"), ("rgb", "thermal", "masks"), ("1", "2"), 0, 1)
    prepare_segmentation(["--set", "mine", "--source", str(source)])
    assert [len(records(f"mine_seg_{part}")) for part in ("train", "test")] == [2, 2]
    assert read_labels(records("mine_seg_foreground_test")[0])[0, :: W // 2].tolist() == [255, 0]
    assert MetadataCatalog.get("mine_seg_train").stuff_classes == ["ground", "tree"]
    for name in [n for n in DatasetCatalog.list() if n.startswith("mine_")]:
        unregister(name)


@pytest.mark.parametrize("name", WRITERS)
def test_dry_run_then_write_then_unchanged(name, prepare_segmentation, tmp_path, capsys):
    source, output = WRITERS[name](tmp_path / "release"), tmp_path / "sets"
    released = files(source)
    prepare_segmentation(["--set", name, "--source", str(source), "--dry-run"])
    assert "would create" in capsys.readouterr().out and not output.exists()
    prepare_segmentation(["--set", name, "--source", str(source)])
    assert "created: " in capsys.readouterr().out
    written = files(output)
    assert files(source) == released
    prepare_segmentation(["--set", name, "--source", str(source)])
    out = capsys.readouterr().out
    assert "unchanged: " in out and "created" not in out and "replaced" not in out
    assert files(output) == written
    parts = {part: content(output / name, part) for part in RELEASES[name].parts}
    assert all(c["info"]["image_root"] == str(source) for c in parts.values())

    # What was written reads, is without fault, and is the same where the release lies in the set's folder.
    sets = {part: (output / name / "segmentation" / f"{part}.json", output / name) for part in parts}
    assert verify(sets).count("error") == 0
    arrays = {part: [read_labels(r) for r in records(f"{name}_seg_{part}")] for part in parts}
    prepare_segmentation(["--set", name, "--source", str(source), "--output", str(source)])
    for part in parts:
        inside = content(source, part)
        assert "image_root" not in inside["info"] and str(tmp_path) not in json.dumps(inside)
        register_segmentation("inside", source / "segmentation" / f"{part}.json", source)
        np.testing.assert_array_equal([read_labels(r) for r in records("inside")], arrays[part])
    unregister("inside")
    # Only what needed a copy got one; the release itself stays as it was.
    assert released.items() <= files(source).items()


def test_msrs(prepare_segmentation, tmp_path, capsys):
    source = msrs(tmp_path / "release")
    save(source / "test/Segmentation_labels/00002N.png", labels(0))
    save(source / "test/Segmentation_labels/00099N.png", labels(0))
    prepare_segmentation(["--set", "msrs", "--source", str(source)])
    train = content(tmp_path / "sets/msrs", "train")
    assert train["info"] == {
        "description": "MSRS pairs with label maps",
        "image_root": str(source),
        "split": "train",
    }
    assert train["images"][1] == {
        "id": 2,
        "file_name": "train/vi/00002N.png",
        "ir_file_name": "train/ir/00002N.png",
        "sem_seg_file_name": "train/Segmentation_labels/00002N.png",
        "height": H,
        "width": W,
        "time": "night",
    }
    assert train["categories"][1] == {"id": 1, "name": "car", "color": [64, 0, 128]}
    assert len(train["categories"]) == 9 and train["ignored"] == []
    assert files(tmp_path / "sets/msrs").keys() == {"segmentation/train.json", "segmentation/test.json"}
    out = capsys.readouterr().out
    rows = {tuple(line.split()) for line in out.splitlines()}
    assert {("images", "2", "2"), ("night", "1", "1"), ("size", f"{W}x{H}", "2", "2")} <= rows
    assert ("bump", "33.333", "2", "16.667", "1") in rows and ("bike", "0.000", "0", "0.000", "0") in rows
    assert ("label", "maps", "wholly", "unlabeled", "0", "1") in rows
    assert ("skipped:", "label", "maps", "without", "image", "0", "1") in rows
    assert "warning: train has 2 images (1083 published)" in out
    assert "note: no image of test shows person, bike, curve, car_stop, guardrail and 1 more" in out


def test_protocols(prepare_segmentation, tmp_path):
    prepare_segmentation(["--set", "msrs", "--source", str(msrs(tmp_path / "release"))])
    everything, foreground = (records(f"msrs_seg{infix}_test")[0] for infix in ("", "_foreground"))
    assert read_labels(everything)[0, ::8].tolist() == [0, 1, 8]
    assert read_labels(foreground)[0, ::8].tolist() == [255, 0, 7]
    assert len(MetadataCatalog.get("msrs_seg_test").stuff_classes) == 9
    assert MetadataCatalog.get("msrs_seg_foreground_test").stuff_classes[0] == "car"


def test_mfnet_channels_are_parted(prepare_segmentation, tmp_path, capsys):
    source = mfnet(tmp_path / "release")
    prepare_segmentation(["--set", "mfnet", "--source", str(source)])
    out = capsys.readouterr().out
    rows = [line.rsplit(maxsplit=3) for line in out.splitlines()]
    assert ["skipped: mirrored copies (_flip)", "2", "0", "0"] in rows
    assert f"created: {tmp_path}/sets/mfnet/ir (4 files)" in out
    parts = {part: records(f"mfnet_seg_{part}") for part in ("train", "val", "test")}
    assert {part: len(r) for part, r in parts.items()} == {"train": 2, "val": 1, "test": 1}
    assert [r["time"] for r in parts["train"]] == ["day", "night"]
    for record in (r for part in parts.values() for r in part):
        both = np.asarray(Image.open(source / "images" / Path(record["file_name"]).name))
        np.testing.assert_array_equal(np.asarray(Image.open(record["file_name"])), both[..., :3])
        infrared = Image.open(record["ir_file_name"])
        assert infrared.mode == "L"
        np.testing.assert_array_equal(np.asarray(infrared), both[..., 3])
        assert record["sem_seg_file_name"].startswith(str(source))


def test_pst900_holes_take_the_nearest_pixel(prepare_segmentation, tmp_path, capsys):
    source = pst900(tmp_path / "release")
    (path,) = (source / "train/thermal").iterdir()
    thermal = noise(5, 1)
    thermal[:, 5] = 0  # a thin line
    thermal[:4, 20:] = 0  # and a corner
    save(path, thermal)
    save(source / "test/thermal" / path.name, np.zeros_like(thermal))  # nothing to fill it with
    prepare_segmentation(["--set", "pst900", "--source", str(source)])
    (train,), (test,) = records("pst900_seg_train"), records("pst900_seg_test")
    filled = np.asarray(Image.open(train["ir_file_name"]))
    assert (filled[thermal > 0] == thermal[thermal > 0]).all() and (filled > 0).all()
    assert all(filled[y, 5] in (thermal[y, 4], thermal[y, 6]) for y in range(H))
    assert filled[3, 22] == thermal[4, 22] and filled[0, 20] == thermal[0, 19]
    assert test["ir_file_name"] == str(source / "test/thermal" / path.name)
    assert "infrared images with holes filled" in capsys.readouterr().out


def test_ade20k(prepare_segmentation, tmp_path, capsys):
    prepare_segmentation(["--set", "ade20k", "--source", str(ade20k(tmp_path / "release"))])
    first, second = records("ade20k_seg_train")
    assert read_labels(first)[0, ::8].tolist() == [255, 0, 149]
    assert "ir_file_name" not in first
    assert Path(first["file_name"]).parent == tmp_path / "release/images/training"
    gray = Image.open(second["file_name"])  # the copy of a gray image
    assert gray.mode == "RGB" and not np.ptp(np.asarray(gray), axis=2).any()
    meta = MetadataCatalog.get("ade20k_seg_train")
    assert meta.stuff_classes[:3] + meta.stuff_classes[-1:] == ["wall", "building", "sky", "flag"]
    assert len(set(meta.stuff_classes)) == len(set(map(tuple, meta.stuff_colors))) == 150
    assert "ade20k_seg_foreground_train" not in DatasetCatalog.list()
    out = capsys.readouterr().out
    assert "visible images copied as RGB" in out
    assert ["ignored", "33.333", "2", "33.333", "1"] in [line.split() for line in out.splitlines()]


@pytest.mark.parametrize("name", RELEASES)
def test_class_lists(name):
    layout = RELEASES[name]
    assert len(layout.classes) == {"msrs": 9, "mfnet": 9, "fmb": 15, "pst900": 5, "ade20k": 150}[name]
    assert len(set(layout.classes.values())) == len(layout.classes)
    assert all(0 <= v < 256 for rgb in layout.classes.values() for v in rgb)


def test_a_changed_release_replaces_what_was_made(prepare_segmentation, tmp_path, capsys):
    source = mfnet(tmp_path / "release")
    arguments = ["--set", "mfnet", "--source", str(source)]
    prepare_segmentation(arguments)
    image = np.asarray(Image.open(source / "images/00001D.png")).copy()
    image[..., 3] = 7  # only its infrared half changes
    save(source / "images/00001D.png", image)
    capsys.readouterr()
    prepare_segmentation(arguments)
    out = capsys.readouterr().out
    folder = tmp_path / "sets/mfnet"
    assert f"replaced: {folder}/ir (1 file)" in out and f"unchanged: {folder}/ir (3 files)" in out
    assert f"unchanged: {folder}/vis (4 files)" in out
    assert (cv2.imread(records("mfnet_seg_train")[0]["ir_file_name"], cv2.IMREAD_UNCHANGED) == 7).all()


@pytest.mark.skipif(not MSRS.is_dir(), reason="the MSRS pairs are not beside the repository")
def test_real_pairs_with_blank_labels(prepare_segmentation, tmp_path):
    source = tmp_path / "release"
    for part in ("train", "test"):
        for folder in ("vi", "ir", "Segmentation_labels"):
            (source / part / folder).mkdir(parents=True)
        for path in sorted((MSRS / "test/vi").iterdir())[:3]:
            for folder in ("vi", "ir"):
                (source / part / folder / path.name).symlink_to(MSRS / "test" / folder / path.name)
            save(source / part / "Segmentation_labels" / path.name, np.zeros((480, 640), np.uint8))
    prepare_segmentation(["--set", "msrs", "--source", str(source)])
    test = records("msrs_seg_test")
    assert len(test) == 3 and all((r["width"], r["height"]) == (640, 480) for r in test)
    report = verify({"msrs_seg_test": (tmp_path / "sets/msrs/segmentation/test.json", tmp_path)}, sample=3)
    assert {f.kind for f in report.findings} == {"only background"} and len(report.findings) == 3
