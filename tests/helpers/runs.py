"""Training runs: of the demo's detector, made small, and folders of runs that nobody trained."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from ivtuning.config import load_config

TINY = [
    "model.backbone.net.embed_dim=24",
    "model.backbone.net.num_heads=2",
    "model.backbone.out_channels=16",
    "model.roi_heads.box_head.conv_dims=[16]",
    "model.roi_heads.box_head.fc_dims=[32]",
    "dataloader.train.total_batch_size=2",
    "train.init_checkpoint=",
]


def config(output, *overrides: str):
    output.mkdir(parents=True, exist_ok=True)
    return load_config("configs/synthetic/ivtuning.py", [*TINY, f"train.output_dir={output}", *overrides])


def write_metrics(folder: Path, *lines: dict) -> None:
    (folder / "metrics.json").write_text("".join(json.dumps(line) + "\n" for line in lines))


def untrained(folder: Path, config: str, *overrides: str) -> Path:
    """The folder of a run whose model has random weights, and that was not evaluated."""
    from detectron2.config import LazyConfig

    from ivtuning.engine.run import build_model

    folder.mkdir(parents=True)
    cfg = load_config(config, ["train.device=cpu", f"train.output_dir={folder}", *overrides])
    torch.manual_seed(0)
    torch.save({"model": build_model(cfg).state_dict()}, folder / "model_final.pth")
    LazyConfig.save(cfg, str(folder / "config.yaml"))
    write_metrics(folder, {"iteration": 19, "total_loss": 2.5, "lr": 0.1})
    return folder
