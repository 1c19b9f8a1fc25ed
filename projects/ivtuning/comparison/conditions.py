"""What all runs of a comparison have in common."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from .. import __version__
from ..config import build, set_names
from ..data.catalog import metadata
from ..data.own import public_name
from ..data.tasks import task_of
from ..engine.checks import check_run
from ..errors import UserError
from ..hub.names import local_path, split_key
from ..utils.files import file_sha256
from .rows import NET

# The figure that rows are judged by where a config has no train.best_metric, by the task of its test set.
METRICS = {
    "detection": "bbox/AP",
    "segmentation": "sem_seg/mIoU",
    "classification": "classification/balanced_accuracy",
}


def conditions(config: str, overrides: Sequence[str], cfg: DictConfig) -> tuple[dict, set[int]]:
    """What all jobs have in common: config, data, number of pairs, trunk, schedule, versions.

    Args:
        cfg: what `config` and `overrides` make up.

    Returns:
        the conditions, and the ids of the images that are trained on.

    Raises:
        UserError: the config's tuner is not IV-tuning; no trunk file; no data.
    """
    target = OmegaConf.select(cfg, f"{NET}.tuner._target_")
    tuner = target if isinstance(target, str) else getattr(target, "__name__", "none")
    if tuner.rpartition(".")[2] != "IVTuning":
        raise UserError(f"{config}: {NET}.tuner is {tuner}: give the data set's IV-tuning config")
    trunk = cfg.train.init_checkpoint
    if not trunk or ("://" not in trunk and not Path(split_key(trunk)[0]).expanduser().is_file()):
        raise UserError(
            f"no trunk file {trunk!r}: `make demo` writes output/demo/trunk.pth; for another trunk give "
            "train.init_checkpoint=FILE"
        )
    train = check_run(cfg) or ()
    sets = {part: names_of(cfg, part) for part in ("train", "test")}
    shared = {
        "config": config,
        "overrides": list(overrides),
        "data": {part: public_name(names) for part, names in sets.items()},
        "data_sha256": {part: [_set_sha256(name) for name in set_names(cfg, part)] for part in sets},
        "pairs": {"train": len(train), "test": len(build(cfg, "dataloader.test.dataset"))},
        "trunk": trunk,
        "trunk_sha256": file_sha256(local_path(trunk)),
        "iterations": int(cfg.train.max_iter),
        "batch": int(cfg.dataloader.train.total_batch_size),
        "lr": float(cfg.optimizer.lr),
        # A config that states the options of every method has widths that go together.
        "width": None if cfg.get("methods") else cfg.model.backbone.net.tuner.get("hidden_dim"),
        "precision": cfg.train.precision,
        "threads": 1,
        "versions": versions(),
    }
    return shared, {record.get("image_id") for record in train}


def versions() -> str:
    """The versions that figures depend on, as tables show them."""
    return f"ivtuning {__version__}, torch {torch.__version__}, Python {platform.python_version()}"


def find_metric(cfg: DictConfig) -> str:
    """The figure that the rows are judged by, such as "bbox/AP"."""
    return cfg.train.best_metric or METRICS[task_of(metadata(set_names(cfg, "test")[0])).name]


def names_of(cfg: DictConfig, part: str) -> Any:
    names = OmegaConf.select(cfg, f"dataloader.{part}.dataset.names")
    return names if isinstance(names, str) else list(names)


def _set_sha256(name: str) -> str | None:
    file = metadata(name).get("json_file")
    return file_sha256(file) if file and os.path.isfile(file) else None
