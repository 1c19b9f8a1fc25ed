"""Overfitting of a DETR-like detector to eight synthetic pairs."""

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

# After 90 steps, rounding decides whether AP50 is 91 or 100.
STEPS, RATE = 130, 2e-3


def overfit(model: nn.Module, folder: Path, monkeypatch: pytest.MonkeyPatch) -> float:
    """AP50 of `model` on the pairs that it was trained on; these are generated in `folder`."""
    generate(folder / "synthetic", train=8, val=1, size=(96, 72))
    monkeypatch.setenv("DETECTRON2_DATASETS", str(folder))
    register_known()
    try:
        mapper = PairedDatasetMapper(is_train=True)
        batch = [mapper(x) for x in get_detection_dataset_dicts("synthetic_train")]
        groups = param_groups(model, RATE, 1e-4)
        optimizer = torch.optim.AdamW(groups)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=STEPS, pct_start=0.1)
        model.train()
        for _ in range(STEPS):
            optimizer.zero_grad()
            with EventStorage():
                sum(model(batch).values()).backward()
            torch.nn.utils.clip_grad_norm_([p for g in groups for p in g["params"]], 0.1)
            optimizer.step()
            schedule.step()
        return inference_on_dataset(model, [batch], PairCOCOEvaluator("synthetic_train"))["bbox"]["AP50"]
    finally:
        monkeypatch.undo()
        register_known()
