"""Two trees of folders, one folder a class, become a set of classified pairs, divided by groups."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from helpers.isolation import Case, refuse, run
from PIL import Image

from ivtuning.data.catalog import unregister
from ivtuning.data.own import find_set
from ivtuning.data.prepare.pair_folders import Shares, divide_pairs, prepare_pair_folders, split_stratified
from ivtuning.data.prepare.pairing import Pair
from ivtuning.data.verify.verification import verify
from ivtuning.errors import UserError

TOOL = "datasets/prepare_pair_folders.py"
W, H = 12, 10


def release(
    folder: Path, visible="vis/{}/{}.png", infrared="ir/{}/{}.png", classes=("car", "dog"), count=5
) -> Path:
    """Pairs of noise, `count` of each class, named by class and number; returns the folder."""
    for label, name in enumerate(classes):
        for i in range(count):
            color = np.random.default_rng([label, i]).integers(0, 255, (H, W, 3), np.uint8)
            for place, pixels in ((visible, color), (infrared, color[..., 0])):
                path = folder / place.format(name, i)
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path, format="png")
    return folder


def prepare(folder: Path, visible="vis", infrared="ir", **options) -> dict[str, dict]:
    """The contents of the set's files by part."""
    files = prepare_pair_folders(visible, infrared, folder / "out", name="own", source=folder, **options)
    return {file.stem.rpartition("_")[2]: json.loads(file.read_text()) for file in files}


@pytest.mark.parametrize(
    "visible, infrared, places",
    [
        ("vis/{}/{}.png", "ir/{}/{}.png", ("vis", "ir")),
        ("vis/{}/{}_RGB.JPG", "ir/{}/{}_thermal.jpeg", ("vis", "ir")),
        ("vis/site 1/{}/x/../{}.png", "ir/site 1/{}/x/../{}.TIF", ("vis", "ir")),
        ("day/rgb/{}/{}.png", "day/thermal/{}/{}.png", ("*/rgb/*/*.png", "*/thermal/*/*.png")),
    ],
)
def test_the_class_is_the_folder_whatever_files_are_called(visible, infrared, places, tmp_path):
    visible, infrared = (name.replace("/x/..", "") for name in (visible, infrared))
    made = prepare(release(tmp_path, visible, infrared), *places)
    assert {part: len(content["images"]) for part, content in made.items()} == {"train": 8, "val": 2}
    for content in made.values():
        assert content["categories"] == [{"id": 1, "name": "car"}, {"id": 2, "name": "dog"}]
        for image in content["images"]:
            name = content["categories"][image["category_id"] - 1]["name"]
            number = Path(image["file_name"]).stem[0]
            assert image["file_name"] == visible.format(name, number)
            assert image["ir_file_name"] == infrared.format(name, number)
            assert (image["width"], image["height"]) == (W, H)
            assert image.get("time") == ("day" if visible.startswith("day") else None)
            assert "group" not in image


def test_the_set_is_read_from_its_file(tmp_path):
    prepare(release(tmp_path, "night/v/{}/a_{}.png", "night/i/{}/a_{}.png"), "*/v/*/*.png", "*/i/*/*.png")
    name = find_set(str(tmp_path / "out/classification/random_val.json"))
    records = DatasetCatalog.get(name)
    assert MetadataCatalog.get(name).classes == ["car", "dog"] and MetadataCatalog.get(name).times == [
        "night"
    ]
    assert sorted(record["label"] for record in records) == [0, 1]
    assert all(Path(record[key]).is_file() for record in records for key in ("file_name", "ir_file_name"))
    unregister(name)


def pairs_of(numbers: dict[str, int], crops: int = 1) -> list[Pair]:
    """Pairs by "time/class": their number of frames, of `crops` pairs each."""
    return [
        Pair(
            f"{folder}/{i:04}_{c}",
            Path(f"/v/{folder}/{i:04}_{c}.png"),
            Path(f"/i/{folder}/{i:04}_{c}.png"),
            None,
        )
        for folder, count in numbers.items()
        for i in range(count)
        for c in range(crops)
    ]


def strata(pairs: list[Pair]) -> Counter:
    return Counter(pair.stem.rpartition("/")[0] for pair in pairs)


def test_a_random_split_is_stratified_and_seeded():
    numbers = {"day/car": 200, "night/car": 50, "day/dog": 20, "night/dog": 3, "day/ox": 2, "night/ox": 1}
    pairs = pairs_of(numbers)
    parts = split_stratified(pairs, Shares(0.2, 0.1))
    assert strata(parts["val"]) == {"day/car": 40, "night/car": 10, "day/dog": 4, "night/dog": 1, "day/ox": 1}
    assert strata(parts["test"]) == {"day/car": 20, "night/car": 5, "day/dog": 2, "night/dog": 1}
    assert sorted(p.stem for part in parts.values() for p in part) == sorted(p.stem for p in pairs)
    assert split_stratified(pairs, Shares(0.2, 0.1)) == parts
    other = split_stratified(pairs, Shares(0.2, 0.1), seed=1)
    assert set(other["val"]) != set(parts["val"]) and strata(other["val"]) == strata(parts["val"])


def test_a_random_split_keeps_groups_together():
    # A frame has cutouts of both classes, and of day and night numbers that are equal.
    pairs = pairs_of({"day/car": 60, "day/dog": 30, "night/car": 40}, crops=3)
    parts = split_stratified(pairs, Shares(0.25), group_by="_")
    frames = {part: {pair.visible.stem[:4] for pair in members} for part, members in parts.items()}
    assert not frames["train"] & frames["val"] and len(frames["train"] | frames["val"]) == 60
    shares = {k: strata(parts["val"])[k] / n for k, n in strata(pairs).items()}
    assert all(abs(share - 0.25) < 0.06 for share in shares.values()), shares
    alone = split_stratified(pairs, Shares(0.25))
    assert {p.visible.stem[:4] for p in alone["train"]} & {p.visible.stem[:4] for p in alone["val"]}


def test_words_that_all_images_share_are_no_part_of_a_group(tmp_path):
    for frame in range(6):
        release(tmp_path, f"vis/{{}}/{frame}_{{}}_RGB.png", f"ir/{{}}/{frame}_{{}}_T.png", count=3)
    made = prepare(tmp_path, group_by="_", split="0.3")
    groups = [{image["group"] for image in content["images"]} for content in made.values()]
    assert groups[0] | groups[1] == set("012345") and not groups[0] & groups[1]


def test_folders_of_parts_are_found_above_the_classes():
    pairs = pairs_of({"day/train/car": 3, "night/train/dog": 2, "day/val/car": 1, "night/val/train": 1})
    name, parts = divide_pairs(pairs, None, Path("/"))
    assert name == "default" and {part: len(members) for part, members in parts.items()} == {
        "train": 5,
        "val": 2,
    }
    assert [pair.stem for pair in parts["val"]] == ["day/val/car/0000_0", "night/val/train/0000_0"]
    assert divide_pairs(pairs, "0.5", Path("/"))[0] == "random"


def test_groups_that_stand_in_two_parts_are_found(tmp_path, capsys):
    for part in ("train", "val"):
        release(tmp_path, f"vis/{part}/{{}}/{{}}_{part}.png", f"ir/{part}/{{}}/{{}}_{part}.png", count=3)
    for kind in ("vis", "ir"):
        (tmp_path / kind / "val/dog/1_val.png").unlink()
        (tmp_path / kind / "val/car/1_val.png").unlink()
        for path in (tmp_path / kind / "val").rglob("*.png"):  # other images of the same frames
            pixels = np.asarray(Image.open(path))
            Image.fromarray(255 - pixels).save(path)
    made = prepare(tmp_path, group_by="_")
    assert {image["group"] for image in made["val"]["images"]} == {"0", "2"}
    assert "warning: 2 groups are in train and in val, such as 0" in capsys.readouterr().out
    files = {part: tmp_path / f"out/classification/default_{part}.json" for part in ("train", "val")}
    report = verify({part: (file, tmp_path / "out") for part, file in files.items()})
    (finding,) = report.findings
    assert (finding.kind, finding.where) == ("shared group", "val")
    assert (
        finding.detail == "2 groups of it are in train as well, such as 0, 2" and report.count("error") == 1
    )
    assert report.text().startswith("10 pairs\n") and "train: 3 car, 3 dog" in report.text()
    assert report.as_dict()["classes"]["val"] == {"car": {"images": 2}, "dog": {"images": 2}}
    apart = prepare(tmp_path, group_by="_", split="0.3")
    groups = [{image["group"] for image in content["images"]} for content in apart.values()]
    assert not groups[0] & groups[1]


@pytest.mark.slow
def test_the_tool_writes_a_set_that_is_registered_and_checked(tmp_path):
    release(tmp_path, "v/{}/{}_0.png", "i/{}/{}_0.png", classes=("car", "dog", "ox"))
    root = {"DETECTRON2_DATASETS": str(tmp_path / "sets")}
    argv = ["--set", "mine", "--vis", "v", "--ir", "i", "--classes", "ox,car", "--group-by", "_"]
    outcome = run(TOOL, argv, tmp_path, root)
    assert outcome.code == 0, outcome.err
    assert "pairs of other classes, left out: 5" in outcome.out
    assert "make train CONFIG=configs/custom/pair_classification.py data.train=" in outcome.out
    sets = [f"mine_cls_random_{part}" for part in ("train", "val")]
    outcome = run("datasets/check_pairs.py", sets, tmp_path, root)
    assert outcome.code == 0 and "mine_cls_random_train: 4 ox, 4 car" in outcome.out, (
        outcome.out + outcome.err
    )


FOLDERS = ["--set", "own", "--vis", "vis", "--ir", "ir", "--output", "out"]


def damaged(change=lambda folder: None, *argv, **options):
    def prepare_folder(folder):
        change(release(folder, **options))
        return [*FOLDERS, *argv]

    return prepare_folder


def lose(name):
    return lambda folder: (folder / name).unlink()


def lose_class(folder):
    for path in (folder / "ir/dog").iterdir():
        path.unlink()


def resize(folder):
    Image.new("L", (W, H + 1)).save(folder / "ir/dog/3.png")


def loose(folder):
    for kind in ("vis", "ir"):
        (folder / kind / "car/0.png").rename(folder / kind / "0.png")


def swap(folder):
    for i in range(5):
        for name in ("car", "dog"):
            a, b = folder / f"vis/{name}/{i}.png", folder / f"ir/{name}/{i}.png"
            a.rename(folder / "x"), b.rename(a), (folder / "x").rename(b)


@pytest.mark.parametrize(
    "case",
    [
        Case("no partner", TOOL, damaged(lose("ir/car/2.png")), ["vis/car/2.png has no partner"]),
        Case("a class missing", TOOL, damaged(lose_class), ["vis/dog/0.png has no partner", "5 such files"]),
        Case("unequal sizes", TOOL, damaged(resize), ["dog/3.png", "12x10 and 12x11", "align_pairs"]),
        Case("no class folder", TOOL, damaged(loose), ["vis/0.png is in no folder of a class"]),
        Case("one class", TOOL, damaged(classes=("car",)), ["one class alone, 'car'"]),
        Case("swapped", TOOL, damaged(swap), ["swap the two folders"]),
        Case(
            "unknown class", TOOL, damaged(lambda f: f, "--classes", "cat,car"), ["no folder is called 'cat'"]
        ),
        Case("bad share", TOOL, damaged(lambda f: f, "--split", "0.7,0.4"), ["--split 0.7,0.4", "below 1"]),
        Case("other split", TOOL, damaged(lambda f: f, "--split", "half"), ["split 'half' is neither known"]),
        Case(
            "no parts", TOOL, damaged(lambda f: f, "--split", "folders"), ["in no folder train, val or test"]
        ),
        Case("empty group", TOOL, damaged(lambda f: f, "--group-by", ""), ["--group-by is empty"]),
        Case("one pair a class", TOOL, damaged(count=1), ["leaves its val part without any of the 2 pairs"]),
        Case("same folder", TOOL, lambda f: [*FOLDERS[:2], "--vis", "v", "--ir", "v"], ["both 'v'"]),
    ],
    ids=str,
)
def test_bad_input_is_refused(case, tmp_path):
    refuse(case, tmp_path)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"category_id": 3}, "unknown category id 3"),
        ({"category_id": "car"}, "category_id is 'car', not an integer"),
        ({"group": 7}, "group is 7, not text"),
        ({"ir_file_name": None}, "it has no ir_file_name"),
    ],
)
def test_a_faulty_file_is_refused(change, words, tmp_path):
    prepare(release(tmp_path, count=3))
    path = tmp_path / "out/classification/random_train.json"
    content = json.loads(path.read_text())
    content["images"][0] |= change
    path.write_text(json.dumps(content))
    name = find_set(str(path))
    with pytest.raises(UserError, match=words):
        DatasetCatalog.get(name)
    unregister(name)
