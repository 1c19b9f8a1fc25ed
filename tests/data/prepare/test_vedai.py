"""VEDAI from a release in its own layout."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from PIL import Image

from ivtuning.data.prepare.vedai import CLASSES, read_vedai
from ivtuning.errors import UserError

CAR = "100.5 50.0 0.3 1 1 0 90 110 112 92 40 44 60 56\n"


def release(root: Path, size: int = 512) -> Path:
    """Four pairs; the folds test one each, and the last pair belongs to none."""
    (root / f"Vehicules{size}").mkdir(parents=True)
    (root / f"Annotations{size}").mkdir()
    stems = [f"{number:08}" for number in range(4)]
    for stem in stems:
        for kind, color in (("co", (90, 140, 30)), ("ir", (90, 90, 90))):
            Image.new("RGB", (size, size), color).save(root / f"Vehicules{size}/{stem}_{kind}.png")
        (root / f"Annotations{size}/{stem}.txt").write_text(CAR)
    (root / f"Annotations{size}/annotation{size}.txt").write_text(f"00000000 {CAR}")
    for fold in (1, 2):
        test = stems[fold - 1]
        train = [stem for stem in stems[:3] if stem != test]
        (root / f"Annotations{size}/fold{fold:02}.txt").write_text("\n".join(train) + "\n")
        (root / f"Annotations{size}/fold{fold:02}test.txt").write_text(f"{test}\n")
    return root


@pytest.mark.parametrize(("fold", "size"), [(1, 512), (2, 1024)])
def test_vedai(fold, size, script, tmp_path, capsys):
    root = release(tmp_path / "VEDAI", size)
    lines = CAR.replace("0.3 1 1", "0.3 7 1") + CAR.replace("0.3 1 1", "0.3 31 1")
    (root / f"Annotations{size}/0000000{fold - 1}.txt").write_text(lines)
    options = ["--fold", str(fold)] if fold > 1 else []
    script("prepare_vedai")(["--source", str(root), "--size", str(size), *options])
    train, val = (
        json.loads((tmp_path / f"sets/vedai/annotations/fold{fold:02}_{part}.json").read_text())
        for part in ("train", "val")
    )
    assert [i["file_name"] for i in val["images"]] == [f"Vehicules{size}/0000000{fold - 1}_co.png"]
    assert val["images"][0]["ir_file_name"] == f"Vehicules{size}/0000000{fold - 1}_ir.png"
    assert len(train["images"]) == 2
    assert [c["name"] for c in val["categories"]] == list(CLASSES.values())
    # The motorcycle is left out; the plane's oriented box becomes the box around it.
    assert [(a["category_id"], a["bbox"]) for a in val["annotations"]] == [(9, [90, 40, 22, 20])]
    out = capsys.readouterr().out
    assert "boxes skipped: ignored class" in out and "(1089 published)" in out and "(121 published)" in out


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1 2 3", "is not 14 numbers of an oriented box"),
        (CAR.replace("112", "x"), "is not 14 numbers of an oriented box"),
        (CAR.replace("112", "nan"), "is not 14 numbers of an oriented box"),
        (CAR.replace("0.3 1 1", "0.3 6 1"), "unknown class '6'"),
    ],
)
def test_bad_lines(line, message, tmp_path):
    (tmp_path / "a.txt").write_text(CAR + line)
    with pytest.raises(UserError, match=rf"a.txt:2: .*{re.escape(message)}"):
        read_vedai(tmp_path / "a.txt")


def test_a_missing_fold_is_named(script, tmp_path):
    root = release(tmp_path / "VEDAI")
    with pytest.raises(UserError, match="split list Annotations512/fold03.txt is missing"):
        script("prepare_vedai")(["--source", str(root), "--fold", "3"])
