"""The page and the notebook about predictions keep their word."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.pages import code_blocks, run_notebook
from PIL import Image

from ivtuning.config import load_config
from ivtuning.data.catalog import unregister
from ivtuning.engine import run


def test_the_page_runs(pairs, tmp_path, monkeypatch, capsys):
    model = run.build_model(load_config("synthetic/ivtuning", ["train.device=cpu"]))
    torch.save({"model": model.state_dict()}, tmp_path / "model.pth")
    for name, side in (("visible", "vis"), ("infrared", "ir")):
        Image.open(sorted((pairs / "val" / side).iterdir())[0]).save(tmp_path / f"{name}.png")
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for block in code_blocks("predict.md"):
        exec(compile(block, "predict.md", "exec"), names)
    assert capsys.readouterr().out.strip().endswith("person")
    assert Image.open("found.png").size[0] > 3 * 512


@pytest.mark.slow
def test_the_notebook_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = run_notebook("predict.ipynb")
    found, same = names["found"], names["same"]
    assert torch.equal(found.pred_boxes.tensor, same.pred_boxes.tensor) and len(names["batch"]) == 2
    assert names["predict"].classes == ["person", "engine", "lamp", "sign"]
    assert names["picture"].shape == names["visible"].shape
    assert isinstance(names["panels"], np.ndarray)
    for part in ("train", "val"):
        unregister(f"scenes_{part}")
