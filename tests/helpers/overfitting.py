"""Overfitting of a detector to a few pairs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from detectron2.data import get_detection_dataset_dicts
from detectron2.evaluation import inference_on_dataset
from detectron2.utils.events import EventStorage
from torch import nn

from ivtuning.data.datasets.detection import register_known
from ivtuning.data.mappers.pairs import PairedDatasetMapper
from ivtuning.data.synthetic.generate import generate
from ivtuning.engine.optim import param_groups
from ivtuning.evaluation.coco import PairCOCOEvaluator

# Fewer steps leave AP50 to rounding: after 100 it is 83 or 100.
STEPS, RATE = 150, 2e-3


def fit(model: nn.Module, batch: list[dict], steps: int, rate: float, clip: float) -> None:
    """Train `model` on the one batch: AdamW, one cycle of the rate, gradients of at most `clip` in length."""
    groups = param_groups(model, rate, 1e-4)
    optimizer = torch.optim.AdamW(groups)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.1)
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        with EventStorage():
            sum(model(batch).values()).backward()
        torch.nn.utils.clip_grad_norm_([p for g in groups for p in g["params"]], clip)
        optimizer.step()
        schedule.step()


def overfit(model: nn.Module, folder: Path, monkeypatch: pytest.MonkeyPatch) -> float:
    """AP50 of a DETR-like `model` on the four pairs that train it; they are generated in `folder`."""
    generate(folder / "synthetic", train=4, val=1, size=(96, 72))
    monkeypatch.setenv("DETECTRON2_DATASETS", str(folder))
    register_known()
    try:
        mapper = PairedDatasetMapper(is_train=True)
        batch = [mapper(x) for x in get_detection_dataset_dicts("synthetic_train")]
        fit(model, batch, STEPS, RATE, clip=0.1)
        return inference_on_dataset(model, [batch], PairCOCOEvaluator("synthetic_train"))["bbox"]["AP50"]
    finally:
        monkeypatch.undo()
        register_known()
