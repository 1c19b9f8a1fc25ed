"""Verification of good sets, shifts, sets that share images, broken files, and the tool."""

from __future__ import annotations

import json

import numpy as np
import pytest
from helpers.scenes import add_box, crop, lost, scene
from PIL import Image, ImageOps

from ivtuning.data.catalog import unregister
from ivtuning.data.datasets.detection import register_pairs
from ivtuning.data.datasets.segmentation import register_segmentation
from ivtuning.data.verify.findings import CONFIDENT
from ivtuning.data.verify.verification import estimate_shift, verify
from ivtuning.errors import UserError


def test_a_good_set_has_no_findings(pairs):
    report = pairs[1]()
    assert report.findings == []
    assert (report.images, report.annotations) == (3, 1)
    figures = report.misalignment()
    assert figures["sampled"] == figures["confident"] == 3
    assert figures["max_px"] < 0.5
    assert "0 errors, 0 warnings" in report.text()


@pytest.mark.parametrize("dx, dy", [(0, 0), (6, -4), (-9, 11)])
def test_known_shift_is_measured(dx, dy):
    canvas = scene(7)
    shift = estimate_shift(crop(canvas), 255 - crop(canvas, dx, dy))
    assert shift[2] > CONFIDENT
    np.testing.assert_allclose(shift[:2], (dx, dy), atol=0.75)


def test_unrelated_images_are_not_believed():
    noise = np.random.default_rng(0).integers(0, 255, (240, 320), np.uint8)
    other = np.random.default_rng(1).integers(0, 255, (240, 320), np.uint8)
    assert estimate_shift(noise, other)[2] < CONFIDENT


def test_sample_limits_what_is_measured(pairs):
    assert pairs[1](sample=2).misalignment()["sampled"] == 2
    assert pairs[1](sample=0).misalignment() == {
        "sampled": 0,
        "confident": 0,
        "median_px": None,
        "max_px": None,
        "median_dx": None,
        "median_dy": None,
        "worst": [],
    }


def test_label_maps_are_counted(labeled):
    report = labeled[1]()
    assert report.findings == []
    text = report.text()
    assert text.startswith("3 images, 3 label maps\n")
    rows = [line.split() for line in text.splitlines()[3:6]]
    assert rows == [["ground", "50.000", "3"], ["car", "25.000", "3"], ["ignored", "25.000", "3"]]
    classes = report.as_dict()["classes"]["some_seg_train"]
    assert classes["car"] == {"share": 0.25, "images": 3} and list(classes) == ["ground", "car", "ignored"]


def test_classes_are_counted_those_without_images_too(classified):
    report = classified[1]()
    assert report.findings == []
    assert report.classified == {"some_cls_train": {"car": 2, "person": 1, "bicycle": 0}}
    assert "bicycle" in report.text()


@pytest.mark.parametrize("category", [{"id": 1}, {"id": [1], "name": "car"}, "car"])
def test_faulty_classes_are_findings(classified, category):
    content, check = classified
    content["categories"][0] = category
    assert any(finding.where in ("categories[0]", "category 1") for finding in check().findings)


def test_visible_only_set(labeled, tmp_path):
    content, check = labeled
    for image in content["images"]:
        del image["ir_file_name"]
    report = check()
    assert report.findings == [] and not report.shifts
    Image.open(tmp_path / "vis/1.png").save(tmp_path / "vis/2.png")
    assert [f.kind for f in check().findings] == ["duplicate image"]
    ImageOps.invert(Image.open(tmp_path / "vis/1.png").convert("L")).save(tmp_path / "vis/2.png")
    assert check().findings == []  # training reads gray photographs as well where there is no infrared


@pytest.mark.parametrize(
    "change, message",
    [
        (
            {"categories": [{"id": i + 256, "name": str(i), "color": [1, 1, 1]} for i in range(255)]},
            "at most 254",
        ),
        ({"ignored": [1]}, "the value 1 is both the class 'car' and ignored"),
        ({"images": None}, "has no list 'images'"),
    ],
)
def test_broken_segmentation_json(change, message, labeled):
    content, check = labeled
    content.update(change)
    with pytest.raises(UserError, match=message):
        check()


def test_images_shared_between_sets_are_found(pairs, tmp_path):
    pairs[1]()
    path = tmp_path / "annotations" / "train.json"
    report = verify({"train": (path, tmp_path), "val": (path, tmp_path)})
    assert {f.kind for f in report.findings} == {"shared image"} and report.count("error") == 6
    assert [f.where for f in report.findings] == [
        f"val: {m}/{i}.png" for i in (1, 2, 3) for m in ("vis", "ir")
    ]


@pytest.fixture
def main(script):
    return script("check_pairs")


def test_tool_exit_code_and_json(main, pairs, tmp_path, capsys):
    content, check = pairs
    check()
    path = str(tmp_path / "annotations" / "train.json")
    assert main([path, "--json"]) == 0
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (last["images"], last["errors"], last["warnings"]) == (3, 0, 0)
    add_box(content, image_id=1)
    check()
    assert main([path]) == 0  # a warning does not fail
    assert "warning: duplicate box (1)" in capsys.readouterr().out
    lost("ir/2.png")(tmp_path, content)
    assert main([path, "--json"]) == 1
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert last["kinds"] == {"duplicate box": 1, "missing": 1}
    assert last["findings"][1]["where"] == "ir/2.png"


def test_a_files_kind_follows_from_its_content_and_its_suffix_may_be_in_capitals(main, pairs, tmp_path):
    content, check = pairs
    check()
    for name in ("segmentation/mine.json", "classification/mine.JSON"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(json.dumps(content))
        assert main([str(tmp_path / name)]) == 0


def test_tool_on_label_maps(main, labeled, tmp_path, capsys):
    labeled[1]()
    path = tmp_path / "segmentation" / "train.json"
    register_segmentation("checked_seg_foreground", path, tmp_path, "foreground")
    assert main(["checked_seg_foreground", "--json"]) == 0
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert last["classes"]["checked_seg_foreground"]["ground"]["share"] == 0.5
    lost("labels/2.png")(tmp_path, labeled[0])
    assert main([str(path)]) == 1
    with pytest.raises(UserError, match="make it with datasets/prepare_segmentation.py"):
        main([str(tmp_path / "msrs" / "segmentation" / "train.json")])
    unregister("checked_seg_foreground")


def test_tool_takes_names_and_an_image_root(main, pairs, tmp_path, capsys):
    pairs[1]()
    path = tmp_path / "annotations" / "train.json"
    register_pairs("checked_set", path, tmp_path)
    assert main(["checked_set"]) == 0
    assert main([str(path), "--image-root", str(tmp_path / "elsewhere")]) == 1
    assert "error: missing (6)" in capsys.readouterr().out
    with pytest.raises(UserError, match="did you mean 'checked_set'"):
        main(["checked_sett"])
    with pytest.raises(UserError, match="none.json is missing"):
        main([str(tmp_path / "none.json")])
    with pytest.raises(UserError, match="voc_2007_test has no JSON to check"):
        main(["voc_2007_test"])
    with pytest.raises(UserError, match="sample=-1: give a number"):
        main([str(path), "--sample", "-1"])
    unregister("checked_set")
