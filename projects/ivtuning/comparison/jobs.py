"""The rows of a comparison, and the job that measures each row with each seed."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from ..config import RUN_GROUPS, build, load_config
from ..data.own import public_name
from ..engine.checks import check_run
from ..errors import UserError
from ..hub.names import local_path, split_key

NET = "model.backbone.net"
EQUAL_RATE = "optimizer.params.added_lr_factor=1"


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of the table. Without `method` it keeps the config's stem and tuner, which are IV-tuning's.

    Args:
        name: what the table calls it.
        method: a key of :data:`ivtuning.methods.METHODS`.
        width: the tuner's option that takes the width of IV-tuning's bottleneck.
        changes: further overrides.
        missing: evaluate the trained model without either image as well.
    """

    name: str
    method: str | None = None
    width: str | None = None
    changes: tuple[str, ...] = ()
    missing: bool = False


ROWS = {
    "visible": Row("visible only", "visible"),
    "infrared": Row("infrared only", "infrared"),
    "IVTuning": Row("IVTuning", missing=True),
    "Mona": Row("Mona", "Mona", width="hidden_dim", missing=True),
    "Adapter": Row("Adapter", "Adapter", width="hidden_dim"),
    "AdaptFormer": Row("AdaptFormer", "AdaptFormer", width="hidden_dim"),
    "LoRA": Row("LoRA", "LoRA", width="rank"),
    "BitFit": Row("BitFit", "BitFit"),
    "NormTuning": Row("NormTuning", "NormTuning"),
    "Partial": Row("Partial", "Partial"),
    "Full": Row("Full", "Full", missing=True),
    "IVTuning-3x": Row("IVTuning, 3x rate", changes=("optimizer.params.added_lr_factor=3",)),
    "IVTuning-dropout": Row(
        "IVTuning, modality dropout",
        changes=("dataloader.train.mapper.modality_dropout=0.3", "model.fill_missing=mean"),
        missing=True,
    ),
}


@dataclasses.dataclass(frozen=True)
class Job:
    """One run of a row with a seed.

    Args:
        row: a key of ROWS.
        folder: where the run writes.
        identity: a hash of its config and trunk.
        processes: how many jobs run at a time.
    """

    row: str
    seed: int
    config: str
    overrides: list[str]
    folder: str
    identity: str
    processes: int

    @property
    def label(self) -> str:
        return f"{ROWS[self.row].name}, seed {self.seed}"

    def result(self) -> dict | None:
        """The result that the run has left; None where there is none of this config and trunk."""
        try:
            result = json.loads(Path(self.folder, "result.json").read_text())
        except (OSError, ValueError):
            return None
        return result if result["identity"] == self.identity else None


def conditions(config: str, overrides: Sequence[str]) -> dict:
    """What all jobs have in common: config, data, number of pairs, trunk, schedule, bottleneck width.

    Raises:
        UserError: the config's tuner is not IV-tuning; no trunk file; no data.
    """
    cfg = load_config(config, overrides, RUN_GROUPS)
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
    with open(local_path(trunk), "rb") as f:
        digest = hashlib.file_digest(f, "sha256").hexdigest()
    check_run(cfg)
    sets = {part: cfg.dataloader[part].dataset for part in ("train", "test")}
    return {
        "config": config,
        "data": {part: public_name(node.names) for part, node in sets.items()},
        "pairs": {part: len(build(cfg, f"dataloader.{part}.dataset")) for part in sets},
        "trunk": trunk,
        "trunk_sha256": digest,
        "iterations": int(cfg.train.max_iter),
        "batch": int(cfg.dataloader.train.total_batch_size),
        "lr": float(cfg.optimizer.lr),
        "width": cfg.model.backbone.net.tuner.get("hidden_dim"),
    }


def plan(shared: dict, overrides: Sequence[str], seeds: int, output: Path, processes: int) -> list[Job]:
    """A job for every row and every train.seed from 0 to `seeds` - 1, sorted by seed.

    A comparison that is stopped early so has all rows of the first seeds.

    Args:
        shared: see :func:`conditions`.
    """
    jobs = []
    for key, row in ROWS.items():
        own = list(overrides)
        if row.method:
            own = [o for o in own if not o.startswith((f"{NET}.stem", f"{NET}.tuner", "method="))]
            own.append(f"method={row.method}")
        if row.width and shared["width"]:
            own.append(f"{NET}.tuner.{row.width}={shared['width']}")
        own += [EQUAL_RATE, *row.changes, "train.best_metric="]
        cfg = load_config(shared["config"], own)
        for seed in range(seeds):
            cfg.train.seed, cfg.train.output_dir = seed, ""  # moving the folder leaves the identity
            folder = str(output / key / f"seed{seed}")
            mine = [*own, f"train.seed={seed}", f"train.output_dir={folder}"]
            identity = _identity(cfg, shared["trunk_sha256"])
            jobs.append(Job(key, seed, shared["config"], mine, folder, identity, processes))
    return sorted(jobs, key=lambda job: job.seed)


def _identity(cfg: DictConfig, trunk: str) -> str:
    plain: Any = OmegaConf.to_container(cfg, resolve=True)
    text = json.dumps(plain, default=lambda o: f"{o.__module__}.{getattr(o, '__qualname__', repr(o))}")
    return hashlib.sha256((text + trunk).encode()).hexdigest()
