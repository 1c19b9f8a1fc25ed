"""The commands of datasets/README.md: accepted by their scripts, and true about FLIR's release."""

from __future__ import annotations

import re
import shlex

import numpy as np
import pytest
from detectron2.data import DatasetCatalog
from helpers.tools import ROOT, load_tool
from PIL import Image

BLOCKS = re.findall(r"^```\n(.*?)^```$", (ROOT / "datasets/README.md").read_text(), re.MULTILINE | re.DOTALL)
LINES = "\n".join(BLOCKS).replace("\\\n", " ").splitlines()
CALLS = [shlex.split(line, comments=True)[1:] for line in LINES if line.startswith("python datasets/")]


@pytest.mark.parametrize("call", CALLS, ids=" ".join)
def test_commands_are_accepted(call, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "datasets")
    script, *argv = call
    parser = load_tool(script.removeprefix("datasets/").removesuffix(".py"), "datasets").PARSER
    parser.allow_abbrev = False
    parser.parse_args(argv)


def test_the_flir_command_works_from_any_folder(script, sets, tmp_path, monkeypatch):
    release = tmp_path / "FLIR_aligned"
    for folder in ("JPEGImages", "Annotations"):
        (release / folder).mkdir(parents=True)
    for number in range(1, 5):
        stem = f"FLIR_{number:05}"
        color = np.random.default_rng(number).integers(0, 255, (32, 40, 3), np.uint8)
        Image.fromarray(color).save(release / f"JPEGImages/{stem}_RGB.jpg")
        Image.fromarray(color[..., 0]).save(release / f"JPEGImages/{stem}_PreviewData.jpeg")
        box = "<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>11</xmax><ymax>8</ymax></bndbox>"
        objects = "".join(f"<object><name>{name}</name>{box}</object>" for name in ("car", "dog"))
        (release / f"Annotations/{stem}_PreviewData.xml").write_text(f"<annotation>{objects}</annotation>")
    for name, numbers in (("train", (1, 2, 3)), ("validation", (4,))):
        lines = "".join(f"FLIR_{number:05}_PreviewData\n" for number in numbers)
        (release / f"align_{name}.txt").write_text(lines)
    (call,) = [call for call in CALLS if "flir" in call]
    argv = [str(release) if text == "/data/FLIR_aligned" else text for text in call[1:]]
    monkeypatch.chdir(tmp_path)
    script("prepare_pairs")(argv)
    train, val = (DatasetCatalog.get(f"flir_default_{part}") for part in ("train", "val"))
    assert [len(train), len(val)] == [3, 1]
    assert val[0]["ir_file_name"] == str(release / "JPEGImages/FLIR_00004_PreviewData.jpeg")
    assert [box["category_id"] for box in val[0]["annotations"]] == [1]
