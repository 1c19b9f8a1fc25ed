"""The page and the notebook about predictions keep their word."""

from __future__ import annotations

import cv2
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
        film(tmp_path / f"{name}.mp4", pairs / "val" / side)
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for block in code_blocks("predict.md"):
        exec(compile(block, "predict.md", "exec"), names)
    assert capsys.readouterr().out.strip().endswith("person")
    assert names["found"].image_size == (72, 96) and not names["cameras"][0].grab()
    assert Image.open("found.png").size[0] > 3 * 512


def film(path, folder):
    """Write the images of a folder as a video."""
    images = [cv2.imread(str(file)) for file in sorted(folder.iterdir())]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 10, images[0].shape[1::-1])
    for image in images:
        writer.write(image)
    writer.release()


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
