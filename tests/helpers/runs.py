"""A training run of the demo's detector, made small."""

from __future__ import annotations

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
