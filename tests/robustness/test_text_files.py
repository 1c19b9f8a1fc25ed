"""Faults of lists: their encodings, ranges, names and places."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.tools import ROOT

from ivtuning.data.datasets.classification import labeled_images, register_folder
from ivtuning.data.prepare.pairing import Pair, find_pairs, split_pairs
from ivtuning.errors import UserError

PAIRS = [Pair(f"{n:05}D", Path(f"vis/{n:05}D.png"), Path(f"ir/{n:05}D_IR.png"), None) for n in range(1, 9)]


def divide(folder: Path, text: str | bytes, split: str = "own=val.txt"):
    content = text if isinstance(text, bytes) else text.encode()
    (folder / "val.txt").write_bytes(content)
    return [pair.stem for pair in split_pairs(PAIRS, split, folder)[1]["val"]]


@pytest.mark.parametrize(
    "text",
    [
        "00002D\n00003D",
        "00002D.png\r\n00003D.png\r\n",
        "  vis/00002D.png\t# a comment\n\n# another\nvis\\00003D.png",
        "00002D_IR\n00003D_IR.png\n",
        "2 - 3",
        "2\n3\n3",
        "2-999999999999999\n!4-99999999999999999",
        b"\xef\xbb\xbf00002D\n00003D",
        "00002D\n00003D".encode("utf-16"),
        b"00002D\r00003D\r",
    ],
)
def test_split_lists(text, tmp_path):
    assert divide(tmp_path, text) == ["00002D", "00003D"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1\n9-5", r"val\.txt:2: the range 9-5 is empty; write 5-9"),
        ("1\n! # all", r"val\.txt:2: nothing follows the `!`"),
        ("1\n\n00002d", r"val\.txt:3: no pair is called '00002d'; did you mean '00002D'"),
        ("1\n²", r"val\.txt:2: no pair is called"),
        ("1\n" + "9" * 30, r"val\.txt:2: no pair is called"),
        ("人\n".encode("gbk"), r"val\.txt:1: not UTF-8"),
        (b"1\0\0\0", r"val\.txt:1: a zero byte"),
        ("# nothing", "its val part has no pair"),
    ],
)
def test_bad_split_lists(text, message, tmp_path):
    with pytest.raises(UserError, match=message):
        divide(tmp_path, text)


def test_lists_are_looked_for_beside_the_images_first(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    Path("val.txt").write_text("5")
    assert [pair.stem for pair in split_pairs(PAIRS, "own=val.txt", tmp_path)[1]["val"]] == ["00005D"]
    assert divide(tmp_path, "2") == ["00002D"]
    with pytest.raises(
        UserError, match=f"split list none.txt is missing: it is neither in {tmp_path} nor in"
    ):
        divide(tmp_path, "2", "own=none.txt")


def test_a_name_in_both_lists(tmp_path):
    (tmp_path / "train.txt").write_text("\ufeff00002D\n")
    with pytest.raises(UserError, match="'00002D' is in both lists"):
        divide(tmp_path, "2-3", "own=train.txt, val.txt")


def test_shipped_list_is_found_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pairs = [Pair(f"{n:05}", Path(f"{n:05}"), Path(f"{n:05}"), None) for n in range(4200)]
    scene = ROOT / "datasets/splits/m3fd_scene_val.txt"
    assert len(split_pairs(pairs, f"scene={scene}", tmp_path)[1]["val"]) == 831


def test_hidden_files_are_no_pairs(tmp_path):
    for name in (
        "vis/1.png",
        "ir/1.png",
        "vis/._1.png",
        "ir/._1.png",
        "vis/.DS_Store",
        "xml/1.xml",
        "xml/._1.xml",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (pair,) = find_pairs(tmp_path, "vis/*.png", "ir/*.png", "xml/*.xml")
    assert pair.stem == "1" and pair.label.name == "1.xml"


def test_brackets_in_a_pattern_stand_for_themselves(tmp_path):
    for name in ("v[1]/a.png", "v1/b.png", "i[1]/a.png", "i1/b.png", "x[1]/a.xml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [pair.stem for pair in find_pairs(tmp_path, "v[1]/*.png", "i[1]/*.png", "x[1]/*.xml")] == ["a"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_lists_of_classification_sets(encoding, tmp_path):
    for name in ("train/é 1.jpg", "train/b.jpg", "meta/train.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "meta/train.txt").write_text("é 1.jpg 0\r\n# b\r\nb.jpg\t1\r\n", encoding)
    register_folder("listed", tmp_path, "train")
    assert [(Path(r["file_name"]).name, r["label"]) for r in labeled_images("listed")] == [
        ("é 1.jpg", 0),
        ("b.jpg", 1),
    ]
    for text, message in {
        "b.jpg --1\n": r"train\.txt:1: expected `path label`",
        "b.jpg 99999999999999999\n": r"train\.txt has label 99999999999999999 \(from 0\) but 1 images",
    }.items():
        (tmp_path / "meta/train.txt").write_text(text)
        register_folder("listed", tmp_path, "train")
        with pytest.raises(UserError, match=message):
            labeled_images("listed")


def test_a_macs_folders_are_no_classes(tmp_path):
    for name in ("cat/a.jpg", "cat/._a.jpg", "dog/b.jpg", "__MACOSX/cat/._a.jpg", ".hidden/c.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    register_folder("pets_of_a_mac", tmp_path)
    records = labeled_images("pets_of_a_mac")
    assert [(Path(r["file_name"]).name, r["label"]) for r in records] == [("a.jpg", 0), ("b.jpg", 1)]
