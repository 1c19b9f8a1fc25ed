"""Arguments and weights of tiny models for tests of predictions."""

from __future__ import annotations

from pathlib import Path

import torch

from ivtuning.config import load_config
from ivtuning.engine import run

from .runs import TINY
from .tools import ROOT

DETECTION = [
    "--config-file",
    str(ROOT / "configs/synthetic/ivtuning.py"),
    *TINY,
    "train.device=cpu",
    # Random weights score low.
    "model.roi_heads.box_predictor.test_score_thresh=0.01",
]
SEGMENTATION = ["--config-file", str(ROOT / "configs/synthetic/seg_ivtuning.py"), *TINY[:3], TINY[-1]]


def random_weights(folder: Path) -> dict[str, str]:
    """Checkpoints of random weights of both models, "boxes" and "labels"."""
    files = {}
    for name, (_, config, *overrides) in {"boxes": DETECTION, "labels": SEGMENTATION}.items():
        torch.manual_seed(0)
        model = run.build_model(load_config(config, overrides))
        files[name] = str(folder / f"{name}.pth")
        torch.save({"model": model.state_dict()}, files[name])
    return files
