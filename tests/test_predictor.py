"""The predictor: from a dataset dict to the prediction of a trained model."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from detectron2.config import LazyCall
from helpers.drawings import instances
from omegaconf import OmegaConf

from ivtuning.config import load_config
from ivtuning.engine import run
from ivtuning.predictor import Predictor


def test_predictor_loads_weights_and_runs_the_test_mapper(monkeypatch):
    loaded = []
    monkeypatch.setattr(run, "load_weights", lambda model, path, adapter=None: loaded.append((path, adapter)))
    cfg = OmegaConf.create({"train": {"init_checkpoint": "base.pth", "device": "cpu"}})
    cfg.model = LazyCall(FakeModel)(classes=2)
    cfg.dataloader = {"test": {"mapper": LazyCall(FakeMapper)(ir_range=[0, 100])}}
    predict = Predictor(cfg, None, "a.safetensors")
    assert loaded == [("base.pth", "a.safetensors")] and list(predict.ir_range) == [0, 100]
    assert predict({"image_id": 7}).scores.tolist() == [pytest.approx(0.7)]


class FakeMapper:
    def __init__(self, ir_range):
        self.ir_range = ir_range

    def __call__(self, record):
        return {"mapped": record["image_id"]}


class FakeModel(torch.nn.Module):
    def __init__(self, classes):
        super().__init__()

    def forward(self, inputs):
        assert not self.training and not torch.is_grad_enabled()
        return [{"instances": instances([[1, 1, 9, 9]], [x["mapped"] / 10], [0])} for x in inputs]


def test_predictor_of_a_segmentor_gives_class_ids(monkeypatch):
    monkeypatch.setattr(run, "load_weights", lambda model, path, adapter=None: None)
    cfg = OmegaConf.create({"train": {"init_checkpoint": "base.pth", "device": "cpu"}})
    cfg.model = LazyCall(FakeSegmentor)()
    cfg.dataloader = {"test": {"mapper": LazyCall(FakeMapper)(ir_range=None)}}
    labels = Predictor(cfg)({"image_id": 1, "file_name": "a.png"})
    assert labels.dtype == np.uint8 and labels.tolist() == [[2, 0]]


class FakeSegmentor(torch.nn.Module):
    def forward(self, inputs):
        assert not self.training and not torch.is_grad_enabled()
        return [{"sem_seg": torch.tensor([[[0.1, 3]], [[0.2, 1]], [[0.3, 2]]])} for _ in inputs]


def test_predictor_of_a_classifier_gives_probabilities(monkeypatch):
    monkeypatch.setattr(run, "load_weights", lambda model, path, adapter=None: None)
    cfg = OmegaConf.create({"train": {"init_checkpoint": "base.pth", "device": "cpu"}})
    cfg.model = LazyCall(FakeClassifier)()
    cfg.dataloader = {"test": {"mapper": LazyCall(FakeMapper)(ir_range=None)}}
    assert Predictor(cfg)({"image_id": 1}).tolist() == [0.25, 0.75]


class FakeClassifier(torch.nn.Module):
    def forward(self, inputs):
        return [{"scores": torch.tensor([0.25, 0.75])} for _ in inputs]


def test_predictor_of_two_files(pairs):
    """A dataset dict needs no more than the names of both files."""
    cfg = load_config("configs/synthetic/ivtuning.py", ["train.init_checkpoint=", "train.device=cpu"])
    model = run.build_model(cfg)
    torch.save({"model": model.state_dict()}, pairs / "model.pth")
    visible, infrared = sorted(pairs.glob("val/vis*/*"))[0], sorted(pairs.glob("val/ir/*"))[0]
    predict = Predictor(cfg, str(pairs / "model.pth"))
    predictions = predict({"file_name": str(visible), "ir_file_name": str(infrared)})
    assert predictions.image_size == (72, 96) and predictions.has("pred_boxes")
