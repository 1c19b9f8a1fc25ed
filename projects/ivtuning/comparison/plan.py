"""What a comparison runs: a job for every rate, size and seed of every row."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from ..config import RUN_GROUPS, load_config
from ..engine.checks import find_device
from ..errors import UserError
from ..tuning import Frozen
from ..tuning.selection import Selection
from ..utils.targets import locate_target
from ..utils.text import read_json
from .conditions import conditions, find_metric, names_of
from .jobs import Job
from .options import Options
from .rows import ROWS, Row, choose_rows, parse_variant
from .subsets import TrainingSet

# The conditions that all runs in one folder have in common.
FIXED = ("config", "overrides", "data_sha256", "trunk_sha256", "search_pairs")


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
        if len(variants) < len(options.variants):
            raise UserError("--variant: two have the same name: choose another one")
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
            "metric": find_metric(self._base),
            "sizes": sorted({*options.sizes, *earlier["sizes"]}),
            "search": sorted({*options.search, *earlier["search"]}),
            "seeds": max(options.seeds, earlier["seeds"]),
            "variants": {key: dataclasses.asdict(row) for key, row in self.rows.items() if key not in ROWS},
            "against": options.against,
            "cores": os.cpu_count() or 1,
        }
        if (search := self.shared["search"]) and not search[0] <= 1 <= search[-1]:
            raise UserError(
                f"--search {','.join(f'{factor:g}' for factor in search)}: give factors of the "
                "config's rates on both sides of 1, such as 0.3,1,3,10"
            )
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
        self.present = [key for key in self.rows if key in self.chosen or (output / key).is_dir()]
        whole = not self.shared["sizes"] or any((output / key / "all").is_dir() for key in self.present)
        self.sizes: list[int | None] = [*self.shared["sizes"], *[None] * whole]
        self._own = {key: self._load(key) for key in self.present}

    def _cut(self, trained: Collection[int]) -> None:
        """Decide which pairs the runs train on, where that is not the whole training set."""
        shared, options = self.shared, self.options
        shared["search_pairs"] = None
        if not (shared["search"] or shared["sizes"]):
            return
        source = self._source = TrainingSet(names_of(self._base, "train"), trained)
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
        rates, rate = _rates(cfg, factor)
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


def _rates(cfg: DictConfig, factor: float | None) -> tuple[list[str], float]:
    """The override that multiplies all rates of a run by `factor`, and the rate that tables show."""
    lr = float(f"{cfg.optimizer.lr * (factor or 1):.6g}")
    tuner, params = locate_target(cfg.model.backbone.net.tuner._target_), cfg.optimizer.params
    selects = issubclass(tuner, Selection) and tuner is not Frozen
    share = params.get("trunk_lr_factor" if selects else "added_lr_factor", 1)
    return [f"optimizer.lr={lr:g}"] if factor else [], float(f"{lr * share:.6g}")


def _set_key(cfg: DictConfig, part: str) -> str:
    """The key that names the sets of a loader: one of the group `data`, where the loader refers to it."""
    key = {"train": "data.train", "test": "data.val"}[part]
    node = OmegaConf.select(cfg, f"dataloader.{part}.dataset")
    names = OmegaConf.to_container(node, resolve=False).get("names")
    return key if names == f"${{{key}}}" else f"dataloader.{part}.dataset.names"


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _plain(cfg: DictConfig) -> str:
    """The config as text, but for its folder: moving that leaves a run what it is."""
    cfg = cfg.copy()
    cfg.train.seed, cfg.train.output_dir = 0, ""
    plain: Any = OmegaConf.to_container(cfg, resolve=True)
    return json.dumps(plain, default=lambda o: f"{o.__module__}.{getattr(o, '__qualname__', repr(o))}")
