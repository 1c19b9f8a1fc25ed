"""Splits of a release: shipped, random, by lists, and faulty ones."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.detection_releases import read
from helpers.tools import ROOT

from ivtuning.data.prepare.pairing import Pair, split_pairs
from ivtuning.errors import UserError


def test_shipped_scene_list_has_the_published_numbers():
    pairs = [Pair(f"{n:05}", Path(f"{n:05}"), Path(f"{n:05}"), None) for n in range(4200)]
    name, parts = split_pairs(pairs, f"scene={ROOT / 'datasets/splits/m3fd_scene_val.txt'}", Path("."))
    assert name == "scene" and {k: len(v) for k, v in parts.items()} == {"train": 3368, "val": 831}
    assert "01300" not in {p.stem for part in parts.values() for p in part}


def test_random_split_depends_on_the_seed_alone(script, m3fd, tmp_path):
    def val(*options):
        script("prepare_m3fd")(["--source", str(m3fd), "--split", "random", *options])
        return [i["file_name"] for i in read(tmp_path, "m3fd/annotations/random_val.json")["images"]]

    assert val() == val()
    assert len(val()) == 1
    assert len({tuple(val("--seed", str(seed))) for seed in range(8)}) > 1


def test_split_by_lists(script, m3fd, tmp_path):
    (tmp_path / "a.txt").write_text("00110\n01301.png  # a comment\n")
    (tmp_path / "b.txt").write_text("111-112\n!112\n")
    lists = f"mine={tmp_path}/a.txt,{tmp_path}/b.txt"
    script("prepare_m3fd")(["--source", str(m3fd), "--split", lists])
    parts = [read(tmp_path, f"m3fd/annotations/mine_{part}.json")["images"] for part in ("train", "val")]
    stems = [[i["file_name"][4:9] for i in images] for images in parts]
    assert stems == [["00110", "01301"], ["00111"]]


@pytest.mark.parametrize(
    "lists, message",
    [
        ({"b": "00111\n99999\n"}, "no pair is called '99999'"),
        ({"a": "00111\n00110\n", "b": "00111\n"}, "'00111' is in both lists"),
        ({"b": "5-9\n"}, "its val part has no pair"),
    ],
)
def test_bad_split_lists(lists, message, script, m3fd, tmp_path):
    for name, text in lists.items():
        (tmp_path / f"{name}.txt").write_text(text)
    split = "mine=" + ",".join(f"{tmp_path}/{name}.txt" for name in lists)
    with pytest.raises(UserError, match=message):
        script("prepare_m3fd")(["--source", str(m3fd), "--split", split])


@pytest.mark.parametrize(
    "split, message", [("scenes", "neither known"), ("x=none.txt", "none.txt is missing")]
)
def test_bad_split_names(split, message, script, m3fd):
    with pytest.raises(UserError, match=message):
        script("prepare_m3fd")(["--source", str(m3fd), "--split", split])
