"""What the folder of a run says about it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf

from ..checkpoint.checkpointer import AVERAGED, BEST, FINAL, run_checkpoints
from ..config import load_config, set_names
from ..data.own import public_name
from ..engine.folder import METRICS, RESULTS
from ..engine.metrics_file import read_metrics
from ..errors import UserError
from ..utils.text import read_json, read_text

CONFIG, LOG = "config.yaml", "log.txt"


class Evaluated(NamedTuple):
    """Files that predict: weights, or an adapter on top of them, or an exported file.

    Attributes:
        file: a path or name of weights; with `onnx`, the path of the exported file.
    """

    file: str
    adapter: str | None = None
    onnx: bool = False


@dataclass(frozen=True)
class Run:
    """A training run, finished or not.

    Attributes:
        path: its folder.
        cfg: its config, with the changes of the command line.
        metrics: the figures of each iteration that has some, by iteration.
        results: the figures of the last evaluation by task and name, on 0..100, None where undefined.
        evaluated: what the results are of: "weights" and "adapter" or "onnx", with the "test" sets, or
            "iterations" of the run.
        log: text of its log; "" if there is none.
    """

    path: Path
    cfg: DictConfig
    metrics: Mapping[int, Mapping[str, Any]]
    results: Mapping[str, Mapping[str, float | None]]
    evaluated: Mapping[str, Any]
    log: str

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.path.resolve().name

    @property
    def iterations(self) -> int:
        """How many are done."""
        return self._done(max(self.metrics))

    def _done(self, iteration: int) -> int:
        """How many are done with `iteration`. The last evaluation has the number after the last step's."""
        return min(iteration + 1, self.cfg.train.max_iter)

    @property
    def model(self) -> Evaluated | None:
        """What the figures are of: the files that `make eval` took, or the weights at the end."""
        if onnx := self.evaluated.get("onnx"):
            return Evaluated(self._find(onnx), onnx=True)
        if weights := self.evaluated.get("weights"):
            adapter = self.evaluated.get("adapter")
            return Evaluated(self._find(weights), adapter and self._find(adapter))
        names = (AVERAGED, BEST) if self.cfg.train.get("ema_decay") else ()
        files = [self.path / name for name in (*names, FINAL)]
        files += [*reversed(run_checkpoints(self.path)), self.path / BEST]
        return next((Evaluated(str(file)) for file in files if file.is_file()), None)

    @property
    def other_set(self) -> str | None:
        """The test set that the figures are of, where `make eval` took another one than the run's."""
        test = self.evaluated.get("test")
        return test if test and test != public_name(set_names(self.cfg, "test")) else None

    def _find(self, name: str) -> str:
        """A file that the results name, or the one of that name in the run's folder, if that was moved."""
        moved = self.path / os.path.basename(name)
        return str(moved) if not os.path.exists(name) and moved.is_file() else name

    @cached_property
    def facts(self) -> dict[str, str]:
        """What ran, by the name of the fact; those that nothing is known about are left out."""

        def get(key: str) -> Any:
            return OmegaConf.select(self.cfg, key)

        def kind(key: str) -> str | None:
            target = get(f"{key}._target_")
            return None if target is None else str(target).rpartition(".")[2]

        train, batch = self.cfg.train, get("dataloader.train.total_batch_size")
        method = " + ".join(filter(None, map(kind, ("model.backbone.net.tuner", "model.backbone.net.stem"))))
        seconds = [_seconds(match) for match in re.findall(r"Total training time: (.+?) \(", self.log)]
        memory = re.findall(r"max_mem: (\d+)M", self.log)
        done = f"{self.iterations:,} of {train.max_iter:,} iterations"
        facts = {
            "state": f"finished, {done}" if self.iterations >= train.max_iter else f"unfinished, {done}",
            "config": _match(r"INFO: config (\S+)", self.log),
            "method": method,
            "model": kind("model"),
            "trunk": kind("model.backbone.net"),
            "started from": train.init_checkpoint or "random weights",
            "training set": public_name(set_names(self.cfg, "train")),
            "test set": public_name(set_names(self.cfg, "test")),
            "trained in the backbone": _match(r"backbone trains (.+)", self.log),
            "batch": batch and f"{batch * train.get('gradient_accumulation', 1)} pairs, {train.precision}",
            "learning rate": get("optimizer.lr") and f"{get('optimizer.lr'):g}, {kind('optimizer')}",
            "seed": train.seed,
            "training time": f"{_duration(sum(seconds))}" if seconds else None,
            "GPU memory": f"{max(map(int, memory)):,} MB at most" if memory else None,
            "versions": _match(r"INFO: (ivtuning \S+, torch .+)", self.log),
        }
        return {key: str(value) for key, value in facts.items() if value not in (None, "")}

    @property
    def parameters(self) -> str:
        """The table of parameters that the log starts with; "" without one."""
        return _match(r"INFO: parameters\n((?:.*\n)+?)added to the trunk", self.log) or ""

    def series(self, key: str) -> list[tuple[float, float]]:
        """(iteration, value) of a figure, by iteration."""
        found = ((i, line.get(key)) for i, line in sorted(self.metrics.items()))
        return [(self._done(i), float(v)) for i, v in found if isinstance(v, (int, float))]

    def measured(self) -> list[str]:
        """Names of all figures that the run has measured."""
        return list(dict.fromkeys(key for line in self.metrics.values() for key in line))


def read_run(path: str | os.PathLike, overrides: Sequence[str] = ()) -> Run:
    """Read the folder of a run.

    Args:
        overrides: changes to its config, such as another device or place of the images.

    Raises:
        UserError: the folder is missing, holds no run or one that has not begun to measure, or a file in it
            is damaged.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder: give the output folder of a run, such as output/<name>")
    missing = [name for name in (CONFIG, METRICS) if not (folder / name).is_file()]
    if missing:
        raise UserError(
            f"{folder} holds no training run ({missing[0]} is missing): give the train.output_dir of one"
        )
    metrics = read_metrics(folder / METRICS)
    if not metrics:
        raise UserError(f"{folder / METRICS} has no figures yet: let the run go on for a while")
    cfg = load_config(folder / CONFIG, overrides, ("dataloader", "model", "train"))
    results, evaluated = _read_results(folder / RESULTS)
    log = read_text(folder / LOG) if (folder / LOG).is_file() else ""
    return Run(folder, cfg, metrics, results, evaluated, log)


def _read_results(file: Path) -> tuple[dict, dict]:
    """The nested figures in results.json, and what they are of; both empty without the file."""
    if not file.is_file():
        return {}, {}
    content = read_json(file)
    results = content.get("results") if isinstance(content, dict) else None
    whole = isinstance(results, dict) and all(
        isinstance(figures, dict) and all(isinstance(v, (int, float, type(None))) for v in figures.values())
        for figures in results.values()
    )
    if not whole:
        raise UserError(f"{file} has no results of an evaluation: remove it, or evaluate the run again")
    return results, {key: value for key, value in content.items() if key != "results"}


def _match(pattern: str, text: str) -> str | None:
    """The group of the last match in the text: a resumed run logs again."""
    found = re.findall(pattern, text)
    return found[-1] if found else None


def _seconds(text: str) -> int:
    """Seconds of a duration such as "1 day, 2:03:04"."""
    days, _, clock = text.rpartition(", ")
    hours, minutes, seconds = (int(part) for part in clock.split(":"))
    return 86400 * int(days.split()[0] if days else 0) + 3600 * hours + 60 * minutes + seconds


def _duration(seconds: int) -> str:
    hours, rest = divmod(seconds, 3600)
    return f"{hours} h {rest // 60} min" if hours else f"{rest // 60} min {rest % 60} s"
