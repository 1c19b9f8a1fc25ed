"""The commands and the code of docs/new_data_set.md make a data set that trains."""

from __future__ import annotations

import shlex

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from helpers.pages import code_blocks
from helpers.tools import ROOT, load_tool
from PIL import Image

from ivtuning.data.catalog import KnownSet, unregister
from ivtuning.data.datasets import detection

XML = """<annotation><object><name>{kind}</name>
<bndbox><xmin>5</xmin><ymin>6</ymin><xmax>25</xmax><ymax>30</ymax></bndbox></object></annotation>"""
NAMES = ("street_random_train", "street_random_val")


@pytest.fixture
def release(tmp_path, monkeypatch):
    """The page's example release, ten pairs, in a folder that is also the data root."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    monkeypatch.syspath_prepend(ROOT / "datasets")  # where the scripts import their options from
    rng = np.random.default_rng(0)
    for folder, channels in (("visible", 3), ("infrared", 1)):
        (tmp_path / "street" / folder).mkdir(parents=True)
        for i in range(10):
            pixels = rng.integers(0, 255, (48, 64, channels), dtype=np.uint8).squeeze()
            Image.fromarray(pixels).save(tmp_path / f"street/{folder}/{i:04}.png")
    (tmp_path / "street/labels").mkdir()
    for i in range(10):
        (tmp_path / f"street/labels/{i:04}.xml").write_text(XML.format(kind="person" if i % 2 else "car"))
    yield tmp_path
    for name in NAMES:
        unregister(name)


def run(command: str) -> None:
    """Run one command of the page, in this process."""
    python, script, *arguments = shlex.split(command)
    assert python == "python"
    folder, name = script.removesuffix(".py").split("/")
    load_tool(name, folder).main(arguments)


def test_the_page_can_be_followed(release, monkeypatch):
    prepare, check = (block.strip() for block in code_blocks("new_data_set.md", "sh"))
    run(prepare.replace("--source street", f"--source {release / 'street'}"))
    assert sorted(p.name for p in (release / "street/annotations").iterdir()) == [
        "random_train.json",
        "random_val.json",
    ]
    (entry,) = code_blocks("new_data_set.md")
    monkeypatch.setattr(detection, "KNOWN", eval(f"{{{entry}}}", {"KnownSet": KnownSet}))
    detection.register_known()
    train, val = (DatasetCatalog.get(name) for name in NAMES)
    assert (len(train), len(val)) == (8, 2)
    assert MetadataCatalog.get(NAMES[0]).thing_classes == ["person", "car"]
    assert train[0]["ir_file_name"].endswith(".png")
    run(check)
