"""The synthetic set: labels true to the pixels, a fixed share, the same bytes from the same seed."""

from __future__ import annotations

import json
import shutil
from collections import defaultdict
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as mask_util

from ivtuning.data.synthetic import generate as synthetic
from ivtuning.data.synthetic.drawing import CLASSES
from ivtuning.data.synthetic.generate import LABELS, describe, generate, summarize
from ivtuning.data.synthetic.placement import MAX_OCCLUDED, deal, draw_pair, label_map
from ivtuning.errors import UserError

# By scene of the training set: mean levels of its four quarters, visible and infrared.
GOLDEN = {
    1: [18.77, 15.82, 15.42, 12.11, 62.37, 62.18, 69.22, 73.25],
    4: [158.75, 171.02, 117.06, 117.99, 74.54, 67.34, 79.28, 76.91],
    256: [20.56, 22.71, 22.88, 20.14, 46.98, 48.85, 52.58, 52.36],
}
SHOWS, VANISHED = 15.0, 8.0  # levels of local contrast: more than the one shows, less than the other does not


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "synthetic"
    return root, generate(root, train=48, val=16)


def read(root: Path, split: str) -> tuple[dict, dict]:
    coco = json.loads((root / "annotations" / f"{split}.json").read_text())
    by_image = defaultdict(list)
    for annotation in coco["annotations"]:
        by_image[annotation["image_id"]].append(annotation)
    return coco, by_image


def files(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def fill(annotation: dict, shape: tuple[int, int]) -> np.ndarray:
    """The polygons as the mask that COCO makes of them."""
    return mask_util.decode(mask_util.merge(mask_util.frPyObjects(annotation["segmentation"], *shape))) > 0


def contrast(picture: np.ndarray, mask: np.ndarray, others: np.ndarray) -> float:
    """Mean distance from the ring's median level, of the pixels in `mask` beyond that of the ring's own."""
    grow = lambda m, n: cv2.dilate(m.astype(np.uint8), np.ones((n, n), np.uint8)).astype(bool)  # noqa: E731
    ring = grow(mask, 13) & ~grow(mask, 7) & ~grow(others, 7)
    picture = picture.reshape(*mask.shape, -1).astype(float)
    level = np.median(picture[ring], axis=0)
    return float((np.abs(picture[mask] - level).mean(0) - np.abs(picture[ring] - level).mean(0)).max())


def test_modality_is_true_to_the_pixels(made):
    root, _ = made
    shown, vanished = [], []
    for split in ("train", "val"):
        coco, by_image = read(root, split)
        for image in coco["images"]:
            pair = {
                "visible": cv2.imread(str(root / image["file_name"])),
                "infrared": cv2.imread(str(root / image["ir_file_name"]), cv2.IMREAD_UNCHANGED),
            }
            masks = [fill(a, (image["height"], image["width"])) for a in by_image[image["id"]]]
            for i, annotation in enumerate(by_image[image["id"]]):
                others = np.any([m for j, m in enumerate(masks) if j != i] or [masks[i] & False], axis=0)
                for name, picture in pair.items():
                    difference = contrast(picture, masks[i], others)
                    (shown if annotation["modality"] in ("both", name) else vanished).append(difference)
    assert len(shown) > 100 and len(vanished) > 50
    assert min(shown) > SHOWS
    assert max(vanished) < VANISHED


def test_label_maps_hold_the_objects_and_nothing_else(made):
    root, _ = made
    shares, seen = [], set()
    for split in ("train", "val"):
        coco, by_image = read(root, split)
        maps = json.loads((root / "segmentation" / f"{split}.json").read_text())
        assert [c["name"] for c in maps["categories"]] == list(LABELS) == ["background", *CLASSES]
        assert [c["id"] for c in maps["categories"]] == [0, 1, 2, 3, 4]
        assert all(c["color"] == list(LABELS[c["name"]]) for c in maps["categories"])
        assert maps["info"]["split"] == split and "annotations" not in maps
        for image, boxed in zip(maps["images"], coco["images"], strict=True):
            path = image.pop("sem_seg_file_name")
            assert image == boxed and path == image["file_name"].replace("/vis/", "/labels/")
            with Image.open(root / path) as file:
                assert file.mode == "L"
                labels = np.asarray(file)
            assert labels.shape == (144, 192)
            drawn = np.zeros(labels.shape, bool)
            for annotation in by_image[image["id"]]:
                mask = fill(annotation, labels.shape)
                shares.append(np.mean(labels[mask] == annotation["category_id"]))
                seen.add((annotation["category_id"], annotation["modality"]))
                drawn |= mask
            # Outside there are decoys, which are background, and pixels cut by an outline.
            assert np.mean((labels > 0)[~drawn]) < 0.002
    assert min(shares) > 0.8 and np.mean(shares) > 0.98
    assert seen >= {(1, "infrared"), (2, "infrared"), (3, "visible"), (4, "visible")}


def test_of_two_objects_the_one_in_front_has_the_pixel():
    crowd = [("person", "both"), ("engine", "both"), ("sign", "both")] * 2
    shared = 0
    for seed in range(12):
        _, _, sprites = draw_pair((144, 192), "day", crowd, [], np.random.default_rng(seed))
        labels = label_map(sprites, (144, 192))
        for i, front in enumerate(sprites):
            solid = front.alpha((144, 192)) == 1
            for other in sprites[i + 1 :]:
                solid &= other.alpha((144, 192)) == 0
            assert (labels[solid] == CLASSES.index(front.kind) + 1).all()
            shared += sum(
                (solid & (o.alpha(solid.shape) > 0.5) & (o.kind != front.kind)).sum() for o in sprites[:i]
            )
    assert shared > 100


def test_pixels_are_those_that_the_published_figures_rest_on():
    """Any other draw moves the mean levels of a scene's quarters, another OpenCV's rounding does not."""
    plans = deal(256, np.random.default_rng([0, 0]))
    for number, expected in GOLDEN.items():
        visible, infrared, _ = draw_pair(
            (144, 192), *plans[number - 1], np.random.default_rng([0, 0, number])
        )
        quarters = [p.reshape(2, 72, 2, 96, -1).mean((1, 3, 4)).ravel() for p in (visible, infrared)]
        assert np.concatenate(quarters) == pytest.approx(expected, abs=0.05)


def test_boxes_and_areas_describe_the_polygons(made):
    root, _ = made
    coco, by_image = read(root, "train")
    sides, ratios, (height, width) = [], [], (144, 192)
    for annotation in coco["annotations"]:
        mask = fill(annotation, (height, width))
        rows, columns = np.nonzero(mask.any(1))[0], np.nonzero(mask.any(0))[0]
        x, y, w, h = annotation["bbox"]
        tight = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
        assert np.abs(np.array([x, y, x + w, y + h]) - tight).max() <= 1
        assert x >= 0 and y >= 0 and x + w <= width and y + h <= height
        sides.append(max(w, h))
        ratios.append(mask.sum() / annotation["area"])
    assert min(ratios) > 0.85 and max(ratios) < 1.15 and np.mean(ratios) == pytest.approx(1, abs=0.03)
    assert 8 < min(sides) < 15 and 45 < max(sides) <= 61
    assert {len(by_image[image["id"]]) for image in coco["images"]} == {1, 2, 3, 4, 5, 6}


def test_files_follow_the_data_contract(made):
    root, summary = made
    for split, count in (("train", 48), ("val", 16)):
        coco, _ = read(root, split)
        assert [c["name"] for c in coco["categories"]] == list(CLASSES)
        assert [c["id"] for c in coco["categories"]] == [1, 2, 3, 4]
        assert [i["id"] for i in coco["images"]] == list(range(1, count + 1))
        assert [a["id"] for a in coco["annotations"]] == list(range(1, len(coco["annotations"]) + 1))
        assert coco["info"]["split"] == split
        for image in coco["images"]:
            stem = f"{image['id']:05d}{'D' if image['time'] == 'day' else 'N'}.png"
            assert (image["file_name"], image["ir_file_name"]) == (
                f"{split}/vis/{stem}",
                f"{split}/ir/{stem}",
            )
            visible = cv2.imread(str(root / image["file_name"]), cv2.IMREAD_UNCHANGED)
            infrared = cv2.imread(str(root / image["ir_file_name"]), cv2.IMREAD_UNCHANGED)
            assert visible.shape == (144, 192, 3) and visible.dtype == np.uint8
            assert infrared.shape == (144, 192) and infrared.dtype == np.uint8
        assert summary[split] == summarize(coco)
        assert summary[split]["day"] == summary[split]["night"] == count // 2
        assert max(summary[split]["per_class"].values()) - min(summary[split]["per_class"].values()) <= 2


def test_classes_vanish_only_where_the_rule_says(made):
    root, _ = made
    coco, by_image = read(root, "train")
    seen = set()
    for image in coco["images"]:
        for annotation in by_image[image["id"]]:
            kind = CLASSES[annotation["category_id"] - 1]
            seen.add((kind, image["time"], annotation["modality"]))
    moving = {(k, t, "both") for k in ("person", "engine") for t in ("day", "night")}
    fixed = {(k, t, m) for k in ("lamp", "sign") for t in ("day", "night") for m in ("both", "visible")}
    assert seen == moving | fixed | {("person", "night", "infrared"), ("engine", "night", "infrared")}


@pytest.mark.parametrize("count", [16, 17, 33, 64, 256])
def test_share_is_dealt_exactly(count):
    for seed in range(5):
        plans = deal(count, np.random.default_rng(seed))
        modalities = [modality for _, objects, _ in plans for _, modality in objects]
        assert abs(np.mean([m != "both" for m in modalities]) - 0.36) <= 0.01


def test_decoys_keep_to_the_rule():
    seen = {(time, *decoy) for time, _, decoys in deal(200, np.random.default_rng(0)) for decoy in decoys}
    ghosts = {(t, k, "infrared") for t in ("day", "night") for k in ("lamp", "sign")}
    assert seen == ghosts | {("day", k, m) for k in ("person", "engine") for m in ("visible", "infrared")}


def test_occlusion_is_mild_and_happens():
    least = []
    crowd = [("person", "both"), ("engine", "both"), ("sign", "both")] * 2
    for seed in range(12):
        _, _, sprites = draw_pair((144, 192), "day", crowd, [], np.random.default_rng(seed))
        least += [s.visible_part.sum() / s.paint[..., 4].sum() for s in sprites]
    assert len(least) == 12 * len(crowd)
    assert 1 - MAX_OCCLUDED - 1e-4 <= min(least) < 0.95


def test_same_seed_same_bytes_and_splits_differ(tmp_path):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        generate(tmp_path / name, train=3, val=3, size=(96, 72), seed=seed)
    a, b, c = (files(tmp_path / name) for name in "abc")
    assert a == b and len(a) == 22
    pictures = [data for made in (a, c) for name, data in made.items() if name.endswith(".png")]
    assert len(set(pictures)) == len(pictures) == 36


def test_finished_set_is_recognized_and_others_are_replaced(tmp_path, capsys):
    root = tmp_path / "set"
    root.mkdir()  # an empty folder is fine
    first = generate(root, train=2, val=2, size=(96, 72))
    assert "show in one modality only" in capsys.readouterr().out
    stamp = (root / "train/vis").stat().st_mtime_ns
    assert generate(root, train=2, val=2, size=(96, 72)) == first
    assert (root / "train/vis").stat().st_mtime_ns == stamp
    next((root / "val/ir").iterdir()).unlink()  # a damaged set is made anew
    assert generate(root, train=2, val=2, size=(96, 72)) == first
    assert len(list((root / "val/ir").iterdir())) == 2
    # A set from before there were label maps gets them, and keeps its pictures and boxes.
    whole = files(root)
    for path in (root / "segmentation", root / "train/labels", root / "val/labels"):
        shutil.rmtree(path)
    assert generate(root, train=2, val=2, size=(96, 72)) == first
    assert files(root) == whole
    next((root / "val/labels").iterdir()).unlink()
    generate(root, train=2, val=2, size=(96, 72))
    assert files(root) == whole
    assert generate(root, train=3, val=2, size=(96, 72))["train"]["images"] == 3
    assert len(list((root / "train/vis").iterdir())) == 3
    assert list(tmp_path.iterdir()) == [root]


def test_interruption_leaves_what_was_there(tmp_path, monkeypatch):
    root = tmp_path / "set"
    generate(root, train=1, val=1, size=(96, 72))
    before = files(root)
    monkeypatch.setattr(synthetic.cv2, "imwrite", lambda *_: False)
    with pytest.raises(UserError, match="disk full"):
        generate(root, train=2, val=1, size=(96, 72))
    assert files(root) == before and list(tmp_path.iterdir()) == [root]


@pytest.mark.parametrize(
    "bad",
    [
        {"train": 0},
        {"val": -1},
        {"train": 2.5},
        {"seed": -1},
        {"size": (64, 48)},
        {"size": 192},
        {"size": (192,)},
    ],
)
def test_bad_parameters_are_refused(tmp_path, bad):
    with pytest.raises(UserError, match=f"synthetic set: {next(iter(bad))} must be"):
        generate(tmp_path / "set", **bad)
    assert not list(tmp_path.iterdir())


def test_foreign_folders_and_files_are_left_alone(tmp_path):
    (tmp_path / "photos").mkdir()
    note = tmp_path / "photos" / "note.txt"
    note.write_text("mine")
    for root in (tmp_path / "photos", note):
        with pytest.raises(UserError, match="no synthetic set"):
            generate(root, train=1, val=1)
    with pytest.raises(UserError, match="cannot write"):
        generate(note / "below", train=1, val=1)
    assert files(tmp_path) == {"photos/note.txt": b"mine"}


def test_describe_names_the_share(made):
    _, summary = made
    line = describe(summary["train"])
    assert line.startswith(
        "48 pairs (24 day, 24 night), 168 objects (person 42, engine 42, lamp 42, sign 42)"
    )
    assert line.endswith("35.7% show in one modality only")
