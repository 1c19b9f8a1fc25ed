"""Parts of a training set: nested, in shares, whole groups, and files that register like any other set."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from ivtuning.comparison.subsets import TrainingSet, spread
from ivtuning.data.own import find_set
from ivtuning.errors import UserError

CLASSES = {1: 60, 2: 30, 3: 6}


@pytest.fixture
def crops(tmp_path) -> TrainingSet:
    """96 classified pairs of three classes, two pairs of a group beside each other."""
    labels = [label for label, number in CLASSES.items() for _ in range(number)]
    images = [
        {
            **{"id": i, "file_name": f"{i}.png", "ir_file_name": f"{i}_ir.png", "height": 8, "width": 8},
            **{"category_id": label, "time": ("day", "night")[i % 4 == 3], "group": f"frame{i // 2}"},
        }
        for i, label in enumerate(labels)
    ]
    categories = [{"id": i, "name": f"class{i}"} for i in CLASSES]
    folder = tmp_path / "classification"
    folder.mkdir()
    (folder / "crops_train.json").write_text(json.dumps({"images": images, "categories": categories}))
    return TrainingSet(find_set(str(folder / "crops_train.json")))


def test_smaller_subsets_are_parts_of_larger_ones_and_have_every_class_in_its_share(crops):
    for seed in range(3):
        order = crops.order(crops.images, seed)
        assert sorted(image["id"] for image in order) == list(range(96))
        for size in (16, 32, 80):
            numbers = Counter(image["category_id"] for image in order[:size])
            # Two strata, day and night, of each class may each be off by one.
            assert all(abs(numbers[c] - n * size / 96) <= 2 for c, n in CLASSES.items())
    first, again, other = (crops.order(crops.images, seed)[:32] for seed in (0, 0, 1))
    assert first == again != other


def test_each_beginning_has_every_stratum_in_its_share_within_one():
    strata = ["a"] * 50 + ["b"] * 9 + ["c"]
    order = spread(strata, seed=3)
    for size in range(1, 61):
        numbers = Counter(strata[i] for i in order[:size])
        assert all(abs(numbers[s] - n * size / 60) <= 1 for s, n in (("a", 50), ("b", 9), ("c", 1)))


def test_many_rare_strata_together_have_their_share():
    order = spread(["big"] * 100 + [f"rare{i % 20}" for i in range(100)], seed=0)
    for size in (10, 50, 120):
        assert abs(sum(i < 100 for i in order[:size]) - size / 2) <= 1


@pytest.mark.parametrize("part, number", [(0.25, 24), (10, 10)])
def test_what_is_held_back_has_whole_groups_of_every_class(crops, part, number):
    rest, held = crops.hold_out(part)
    assert len(held) == number and len(rest) == 96 - number
    groups = [{image["group"] for image in images} for images in (rest, held)]
    assert not groups[0] & groups[1]
    assert {image["category_id"] for image in held} == set(CLASSES) or number == 10


@pytest.mark.parametrize("part", [0.001, 96, 1000])
def test_two_parts_must_be_left(crops, part):
    with pytest.raises(UserError, match=f"--hold-out {part:g} of the 96 pairs"):
        crops.hold_out(part)


def test_a_subset_is_a_set_of_its_own(crops, tmp_path):
    path = tmp_path / "out" / "data" / "train_4.json"
    crops.write(crops.images[5:1:-1], path)
    content = json.loads(path.read_text())
    assert [image["id"] for image in content["images"]] == [2, 3, 4, 5]
    assert content["info"]["image_root"] == str(tmp_path) and len(content["categories"]) == 3
    before = path.stat().st_ino
    crops.write(crops.images[2:6], path)
    assert path.stat().st_ino == before


def test_boxes_follow_their_images(pairs, tmp_path):
    source = TrainingSet("synthetic_train")
    path = tmp_path / "boxes.json"
    source.write(source.images[:3], path)
    content = json.loads(path.read_text())
    ids = {image["id"] for image in content["images"]}
    assert len(ids) == 3
    kept = [a["id"] for a in content["annotations"]]
    assert kept == [a["id"] for a in source.content["annotations"] if a["image_id"] in ids] != []


def test_sets_without_a_json_are_refused():
    for name, words in (("flowers102_train", "has no JSON file"), (["a", "b"], "of one training set")):
        with pytest.raises(UserError, match=words):
            TrainingSet(name)
