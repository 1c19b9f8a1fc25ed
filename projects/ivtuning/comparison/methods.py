"""What is compared: the methods, and for each of them and each seed the run that measures it."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detectron2.config import instantiate
from omegaconf import DictConfig, OmegaConf

from ..checkpoint.files import local_path
from ..config import load_config
from ..errors import UserError

NET = "model.backbone.net"
EQUAL_RATE = "optimizer.params.added_lr_factor=1"


@dataclasses.dataclass(frozen=True)
class Method:
    """A row of the table. Without `stem` it keeps the config's stem and tuner, which are IV-tuning's.

    `width` is the tuner's option that takes the width of IV-tuning's bottleneck; with `missing`, the trained
    model is evaluated without either image as well.
    """

    name: str
    stem: str | None = None
    tuner: str | None = None
    width: str | None = None
    changes: tuple[str, ...] = ()
    missing: bool = False


_pairs = functools.partial(Method, stem="SumStem")
METHODS = {
    "visible": Method("visible only", "VisibleOnly", "Frozen"),
    "infrared": Method("infrared only", "InfraredOnly", "Frozen"),
    "IVTuning": Method("IVTuning", missing=True),
    "Mona": _pairs("Mona", tuner="Mona", width="hidden_dim", missing=True),
    "Adapter": _pairs("Adapter", tuner="Adapter", width="hidden_dim"),
    "AdaptFormer": _pairs("AdaptFormer", tuner="AdaptFormer", width="hidden_dim"),
    "LoRA": _pairs("LoRA", tuner="LoRA", width="rank"),
    "BitFit": _pairs("BitFit", tuner="BitFit"),
    "NormTuning": _pairs("NormTuning", tuner="NormTuning"),
    "Partial": _pairs("Partial", tuner="Partial"),
    "Full": _pairs("Full", tuner="Full", missing=True),
    "IVTuning-3x": Method("IVTuning, 3x rate", changes=("optimizer.params.added_lr_factor=3",)),
    "IVTuning-dropout": Method(
        "IVTuning, modality dropout",
        changes=("dataloader.train.mapper.modality_dropout=0.3", "model.fill_missing=mean"),
        missing=True,
    ),
}


@dataclasses.dataclass(frozen=True)
class Job:
    """One run. `identity` tells its config and trunk from all others; `processes` run beside each other."""

    method: str
    seed: int
    config: str
    overrides: list[str]
    folder: str
    identity: str
    processes: int

    @property
    def label(self) -> str:
        return f"{METHODS[self.method].name}, seed {self.seed}"

    def result(self) -> dict | None:
        """What the run has left, unless it ran with another config or trunk."""
        try:
            found = json.loads(Path(self.folder, "result.json").read_text())
        except (OSError, ValueError):
            return None
        return found if found["identity"] == self.identity else None


def conditions(config: str, overrides: Sequence[str]) -> dict:
    """What all runs share: config, data, number of pairs, trunk, schedule, bottleneck width.

    Raises:
        UserError: the config's tuner is not IV-tuning; no trunk file; no data.
    """
    cfg = load_config(config, overrides)
    target = OmegaConf.select(cfg, f"{NET}.tuner._target_")
    tuner = target if isinstance(target, str) else getattr(target, "__name__", "none")
    if tuner.rpartition(".")[2] != "IVTuning":
        raise UserError(f"{config}: {NET}.tuner is {tuner}: give the data set's IV-tuning config")
    trunk = cfg.train.init_checkpoint
    if not trunk or ("://" not in trunk and not Path(trunk).expanduser().is_file()):
        raise UserError(
            f"no trunk file {trunk!r}: `make demo` writes output/demo/trunk.pth; for another trunk give "
            "train.init_checkpoint=FILE"
        )
    with open(local_path(trunk), "rb") as f:
        digest = hashlib.file_digest(f, "sha256").hexdigest()
    instantiate(cfg.dataloader.evaluator)  # tells in one line what the set to test on lacks
    sets = {part: cfg.dataloader[part].dataset for part in ("train", "test")}
    return {
        "config": config,
        "data": {part: str(node.names) for part, node in sets.items()},
        "pairs": {part: len(instantiate(node)) for part, node in sets.items()},
        "trunk": trunk,
        "trunk_sha256": digest,
        "iterations": int(cfg.train.max_iter),
        "batch": int(cfg.dataloader.train.total_batch_size),
        "lr": float(cfg.optimizer.lr),
        "width": cfg.model.backbone.net.tuner.get("hidden_dim"),
    }


def plan(shared: dict, overrides: Sequence[str], seeds: int, output: Path, processes: int) -> list[Job]:
    """Every method with train.seed = 0 to `seeds` - 1; seed by seed, so that a part of it has every method.

    Args:
        shared: see :func:`conditions`.
    """
    jobs = []
    for key, method in METHODS.items():
        own = list(overrides)
        if method.stem:
            own = [o for o in own if not o.startswith((f"{NET}.stem", f"{NET}.tuner"))]
            own += [f"{NET}.stem={method.stem}", f"{NET}.tuner={method.tuner}"]
        if method.width and shared["width"]:
            own.append(f"{NET}.tuner.{method.width}={shared['width']}")
        own += [EQUAL_RATE, *method.changes, "train.best_metric="]
        cfg = load_config(shared["config"], own)
        for seed in range(seeds):
            cfg.train.seed, cfg.train.output_dir = seed, ""  # moving the folder changes nothing
            folder = str(output / key / f"seed{seed}")
            mine = [*own, f"train.seed={seed}", f"train.output_dir={folder}"]
            identity = _identity(cfg, shared["trunk_sha256"])
            jobs.append(Job(key, seed, shared["config"], mine, folder, identity, processes))
    return sorted(jobs, key=lambda job: job.seed)


def _identity(cfg: DictConfig, trunk: str) -> str:
    plain: Any = OmegaConf.to_container(cfg, resolve=True)
    text = json.dumps(plain, default=lambda o: f"{o.__module__}.{getattr(o, '__qualname__', repr(o))}")
    return hashlib.sha256((text + trunk).encode()).hexdigest()
