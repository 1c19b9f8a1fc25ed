"""What is left of the trained model of a row: its adapter file, and what it costs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from omegaconf import DictConfig

from ..checkpoint import save_adapter
from ..checkpoint.adapter import group_sizes
from ..checkpoint.checkpointer import AVERAGED, FINAL
from ..engine import run
from ..engine.parameters import count_parameters

ADAPTER = "adapter.safetensors"
COUNTS = ("backbone_trainable", "backbone_base", "ratio_of_base", "ratio_of_total", "model_trainable")


def final(cfg: DictConfig) -> str:
    """The file of the weights that a finished run evaluated."""
    name = AVERAGED if cfg.train.get("ema_decay") else FINAL
    return f"{cfg.train.output_dir}/{name}"


def keep_adapter(cfg: DictConfig, metadata: Mapping) -> dict:
    """Write the adapter file of a finished run into its folder.

    Args:
        metadata: what the file says besides its config.

    Returns:
        COUNTS of the model; "adapter_mb" and "task_mb", bytes / 1e6 of the file's groups; its "device".
    """
    model = run.load_model(cfg, final(cfg))
    adapter = Path(cfg.train.output_dir, ADAPTER)
    save_adapter(model, adapter, metadata=metadata, config=cfg)
    counts, sizes = count_parameters(model), group_sizes(adapter)
    return {
        **{key: counts[key] for key in COUNTS},
        "adapter_mb": sizes["backbone"] / 1e6,
        "task_mb": sizes["task"] / 1e6,
        "device": next(model.parameters()).device.type,
    }
