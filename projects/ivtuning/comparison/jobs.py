"""What a comparison runs: its conditions, and a job for every rate, size and seed of every row."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import platform
import shlex
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from .. import __version__
from ..config import RUN_GROUPS, build, load_config
from ..data.catalog import metadata
from ..data.modalities import MODALITIES
from ..data.own import public_name
from ..engine.checks import check_run, find_device
from ..errors import UserError
from ..hub.names import local_path, split_key
from ..utils.text import read_json
from .options import Options
from .rows import NET, ROWS, Row, choose_rows, parse_variant
from .subsets import TrainingSet

# The figure that rows are judged by where a config has no train.best_metric, by what its test set holds.
METRICS = {"sem_seg": "sem_seg/mIoU", "classification": "classification/balanced_accuracy"}
# The conditions that all runs in one folder have in common.
FIXED = ("config", "overrides", "data_sha256", "trunk_sha256", "search_pairs")


@dataclasses.dataclass(frozen=True)
class Job:
    """One run of a row.

    Args:
        row: its key.
        label: what the run is called.
        size: training pairs, None = the whole training set.
        factor: of the row's own rate; None where no rate is searched for.
        rate: of what is added and of the heads; of the trunk where its blocks train.
        search: whether the run serves to choose the rate, on the validation part.
        missing: evaluate without either image as well.
        folder: where the run writes.
        identity: a hash of its config, pairs and trunk.
        metric: the figure that rows are judged by, such as "bbox/AP".
        processes: how many jobs run at a time.
    """

    row: str
    label: str
    seed: int
    size: int | None
    factor: float | None
    rate: float
    search: bool
    missing: bool
    config: str
    overrides: list[str]
    folder: str
    identity: str
    metric: str
    processes: int

    def result(self) -> dict | None:
        """The result that the run has left; None where there is none of this config, data and trunk."""
        try:
            result = json.loads(Path(self.folder, "result.json").read_text())
        except (OSError, ValueError):
            return None
        lacks = self.missing and not set(MODALITIES) <= set(result["figures"])
        return result if result["identity"] == self.identity and not lacks else None

    @property
    def command(self) -> str:
        """The command line that repeats the run, in a folder beside it."""
        parts = [o for o in self.overrides if not o.startswith("train.output_dir=")]
        parts += [f"train.output_dir={self.folder}_again"]
        return "OMP_NUM_THREADS=1 python tools/train_net.py " + shlex.join(
            ["--config-file", self.config, *parts]
        )


class Plan:
    """All jobs of a comparison, with those that a comparison in the same folder has had before.

    Attributes:
        shared: the conditions, which results.json holds.
        rows: every row that there may be, by key.
        chosen: keys of the rows that are to run.
        present: keys of the rows that are to run or have run.
        sizes: numbers of training pairs, None = the whole training set.

    Raises:
        UserError: an unknown row, a wrong variant, more pairs than there are, or a folder that holds a
            comparison under other conditions; see :func:`conditions` as well.
    """

    def __init__(self, config: str, overrides: Sequence[str], output: Path, options: Options):
        variants = dict(map(parse_variant, options.variants))
        self.options, self.output = options, output
        self.chosen = [*(choose_rows(options.only) if options.only or not variants else ()), *variants]
        self._overrides = list(overrides)
        self._base = load_config(config, overrides, RUN_GROUPS)
        earlier = _earlier(output)
        self.rows: dict[str, Row] = ROWS | _variants(earlier) | variants
        if options.against not in self.rows:
            known = ", ".join(self.rows)
            raise UserError(f"--against {options.against}: no such row; there are {known}")
        self.processes = options.processes or os.cpu_count() or 1
        self.shared, trained = conditions(config, overrides, self._base)
        self.shared |= {
            "metric": _metric(self._base),
            "sizes": sorted({*options.sizes, *earlier["sizes"]}),
            "search": sorted({*options.search, *earlier["search"]}),
            "seeds": max(options.seeds, earlier["seeds"]),
            "variants": {key: dataclasses.asdict(row) for key, row in self.rows.items() if key not in ROWS},
            "against": options.against,
            "cores": os.cpu_count() or 1,
        }
        self._parts: dict[Path, list[dict]] = {}
        self._cut(trained)
        self._digests = {
            path: _digest([image["id"] for image in images]) for path, images in self._parts.items()
        }
        for key in FIXED if earlier["config"] else ():
            if earlier[key] != self.shared[key]:
                raise UserError(
                    f"{output} holds a comparison with {key} {earlier[key]!s:.60}, not "
                    f"{self.shared[key]!s:.60}: give another --output"
                )
        self.sizes: list[int | None] = self.shared["sizes"] or [None]
        self.present = [key for key in self.rows if key in self.chosen or (output / key).is_dir()]
        self._own = {key: self._load(key) for key in self.present}

    def _cut(self, trained: Collection[int]) -> None:
        """Decide which pairs the runs train on, where that is not the whole training set."""
        shared, options = self.shared, self.options
        shared["search_pairs"] = None
        if not (shared["search"] or shared["sizes"]):
            return
        source = self._source = TrainingSet(_names(self._base, "train"), trained)
        number = shared["pairs"]["train"]
        for size in shared["sizes"]:
            if size > number:
                raise UserError(f"--sizes {size}: {source.name} has {number} pairs")
            for seed in range(shared["seeds"]):
                self._parts[self._file(size, seed)] = source.order(source.images, seed)[:size]
        if not shared["search"]:
            return
        rest, held = source.hold_out(options.hold_out)
        rest = source.order(rest, 0)
        size = options.search_size or len(rest)
        if size > len(rest):
            raise UserError(
                f"--search-size {size}: of the {number} pairs of {source.name} {len(held)} are held back, "
                f"and {len(rest)} are left"
            )
        self._parts[self.output / "data/search_train.json"] = rest[:size]
        self._parts[self.output / "data/search_val.json"] = held
        shared["search_pairs"] = {"train": size, "val": len(held)}

    def _file(self, size: int, seed: int) -> Path:
        return self.output / "data" / f"train_{size}_seed{seed}.json"

    def _load(self, key: str) -> tuple[list[str], DictConfig, str]:
        """The overrides that all runs of a row begin with, their config, and a hash of that."""
        shared = self.shared
        # A run has one thread, and so reads its own images, unless a GPU would wait for them.
        alone = find_device(self._base.train.device).type == "cpu"
        readers = [f"dataloader.{part}.num_workers=0" for part in ("train", "test") if alone]
        own = self.rows[key].overrides([*readers, *self._overrides], shared["width"])
        own += ["train.best_metric=", "train.eval_period=0"]
        cfg = load_config(shared["config"], own)
        return own, cfg, _digest([_plain(cfg), shared["data_sha256"], shared["trunk_sha256"]])

    def write_parts(self) -> None:
        """Write the JSON files of the pairs that the runs train on."""
        for path, images in self._parts.items():
            self._source.write(images, path)

    def search_jobs(self, key: str) -> list[Job]:
        """The jobs that choose the rate of a row; none where no rate is searched for."""
        parts = [self.output / f"data/search_{part}.json" for part in ("train", "val")]
        return [
            self._job(key, f"search/{f:g}", factor=f, search=True, parts=parts) for f in self.shared["search"]
        ]

    def final_jobs(self, key: str, factor: float | None) -> list[Job]:
        """The jobs of a row whose rate has been chosen, of all sizes and seeds."""
        return [
            self._job(
                key,
                f"{size or 'all'}/seed{seed}",
                factor=factor,
                size=size,
                seed=seed,
                parts=[self._file(size, seed)] if size else [],
            )
            for size in self.sizes
            for seed in range(self.shared["seeds"])
        ]

    @property
    def finals_of_a_row(self) -> int:
        """How many final jobs a row has that are to run."""
        return len(self.options.sizes or self.sizes) * self.options.seeds

    def asked(self, job: Job) -> bool:
        """Whether a job is to run now; others are of earlier calls."""
        options = self.options
        return (
            job.row in self.chosen
            and job.seed < options.seeds
            and (not options.sizes or job.size in options.sizes)
        )

    def _job(
        self,
        key: str,
        folder: str,
        factor: float | None,
        parts: Sequence[Path],
        size: int | None = None,
        seed: int = 0,
        search: bool = False,
    ) -> Job:
        row, (own, cfg, digest) = self.rows[key], self._own[key]
        rates, rate = _rates(row, cfg, factor)
        own = [*own, *rates, f"train.seed={seed}"]
        missing = self.options.missing and row.paired and not search
        identity = [digest, rates, seed]
        for part, path in zip(("train", "test"), parts, strict=False):
            name = _set_key(self._base, part)
            own = [o for o in own if not o.startswith(f"{name}=")] + [f"{name}={path}"]
            identity.append(self._digests[path])
        label = row.name + (f", {size} pairs" if size else "")
        label += f", search at {rate:g}" if search else f", seed {seed}"
        place = self.output / key / folder
        return Job(
            row=key,
            label=label,
            seed=seed,
            size=size,
            factor=factor,
            rate=rate,
            search=search,
            missing=missing,
            config=self.shared["config"],
            overrides=[*own, f"train.output_dir={place}"],
            folder=str(place),
            identity=_digest(identity),
            metric=self.shared["metric"],
            processes=self.processes,
        )


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
    digest = _sha256(local_path(trunk))
    train = check_run(cfg) or ()
    sets = {part: _names(cfg, part) for part in ("train", "test")}
    shared = {
        "config": config,
        "overrides": list(overrides),
        "data": {part: public_name(names) for part, names in sets.items()},
        "data_sha256": {part: [_set_sha256(name) for name in _listed(names)] for part, names in sets.items()},
        "pairs": {"train": len(train), "test": len(build(cfg, "dataloader.test.dataset"))},
        "trunk": trunk,
        "trunk_sha256": digest,
        "iterations": int(cfg.train.max_iter),
        "batch": int(cfg.dataloader.train.total_batch_size),
        "lr": float(cfg.optimizer.lr),
        # A config that states the options of every method has widths that go together.
        "width": None if cfg.get("methods") else cfg.model.backbone.net.tuner.get("hidden_dim"),
        "precision": cfg.train.precision,
        "threads": 1,
        "versions": f"ivtuning {__version__}, torch {torch.__version__}, Python {platform.python_version()}",
    }
    return shared, {record.get("image_id") for record in train}


def _earlier(output: Path) -> dict:
    """The conditions of the comparison that the folder holds already."""
    file = output / "results.json"
    empty = {"config": None, "variants": {}, "sizes": [], "search": [], "seeds": 0}
    if not file.is_file():
        return empty
    content = read_json(file)
    known = content.get("conditions") if isinstance(content, dict) else None
    if isinstance(known, dict) and not (content.get("rows") or content.get("search")):
        return empty  # nothing has been run yet
    if not (isinstance(known, dict) and {*FIXED, "variants", "sizes", "search", "seeds"} <= set(known)):
        raise UserError(f"{file} is no result of a comparison: give another --output")
    return known


def _variants(earlier: dict) -> dict[str, Row]:
    """The rows that the user has stated in earlier calls."""
    stated = earlier["variants"].items()
    return {key: Row(row["name"], row["method"], tuple(row["changes"])) for key, row in stated}


def _metric(cfg: DictConfig) -> str:
    """The figure that the rows are judged by, such as "bbox/AP"."""
    kind = metadata(_listed(_names(cfg, "test"))[0]).get("evaluator_type")
    return cfg.train.best_metric or METRICS.get(kind, "bbox/AP")


def _rates(row: Row, cfg: DictConfig, factor: float | None) -> tuple[list[str], float]:
    """The overrides that multiply a row's own rate by `factor`, and the rate that it then has."""
    lr, trunk = cfg.optimizer.lr, cfg.optimizer.params.trunk_lr_factor
    if row.trains_trunk:
        trunk = float(f"{trunk * (factor or 1):.6g}")
        changes = [f"optimizer.params.trunk_lr_factor={trunk:g}"] if factor else []
        return changes, float(f"{lr * trunk:.6g}")
    rate = float(f"{lr * (factor or 1):.6g}")
    return [f"optimizer.lr={rate:g}"] if factor else [], rate


def _names(cfg: DictConfig, part: str) -> Any:
    names = OmegaConf.select(cfg, f"dataloader.{part}.dataset.names")
    return names if isinstance(names, str) else list(names)


def _listed(names: str | list[str]) -> list[str]:
    return [names] if isinstance(names, str) else names


def _set_key(cfg: DictConfig, part: str) -> str:
    """The key that names the sets of a loader: one of the group `data`, where the loader refers to it."""
    key = {"train": "data.train", "test": "data.val"}[part]
    node = OmegaConf.select(cfg, f"dataloader.{part}.dataset")
    names = OmegaConf.to_container(node, resolve=False).get("names")
    return key if names == f"${{{key}}}" else f"dataloader.{part}.dataset.names"


def _set_sha256(name: str) -> str | None:
    file = metadata(name).get("json_file")
    return _sha256(file) if file and os.path.isfile(file) else None


def _sha256(file: str | Path) -> str:
    with open(file, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _plain(cfg: DictConfig) -> str:
    """The config as text, but for its folder: moving that leaves a run what it is."""
    cfg = cfg.copy()
    cfg.train.seed, cfg.train.output_dir = 0, ""
    plain: Any = OmegaConf.to_container(cfg, resolve=True)
    return json.dumps(plain, default=lambda o: f"{o.__module__}.{getattr(o, '__qualname__', repr(o))}")
