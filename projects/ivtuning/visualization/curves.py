"""Training curves of several runs on shared axes, from the metrics.json of detectron2's JSONWriter."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import yaml

from ..engine.metrics_file import read_metrics
from ..errors import UserError
from ..evaluation.predictions import lower_is_better
from ..utils.files import atomic_write
from ..utils.text import one_line

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

LOSS = "total_loss"
# The figures of the tasks' evaluations that a run is judged by, and their names in the picture.
METRICS = {
    "bbox/AP": "box AP",
    "sem_seg/mIoU": "mean IoU",
    "classification/top1": "top-1 accuracy",
    "bbox/MR": "log-average miss rate",
    "saliency/S": "S-measure",
}


@dataclass
class Curves:
    """The curves of one run: (N, 2) float64 of (iteration, value), by iteration.

    Attributes:
        loss: the total loss.
        metric: key of the figure that the run is judged by, such as "bbox/AP"; None if nothing says which.
        scores: its values, on 0..100; empty before the first evaluation.
    """

    loss: np.ndarray
    metric: str | None
    scores: np.ndarray


def read_curves(run: str | os.PathLike) -> Curves:
    """Read the finite losses and scores of the run in folder `run`.

    The metric is the config's `train.best_metric` if the run has values of it, otherwise the first of METRICS
    that it has values of. If a resumed run repeats an iteration, the later line counts. A truncated last line
    is ignored: the run is still writing, or was killed.

    Raises:
        UserError: the file is missing, a line is not JSON, or there is nothing to draw.
    """
    path = Path(run) / "metrics.json"
    if not path.is_file():
        raise UserError(f"no {path}: --curves takes the output folders of training runs")
    chosen = _best_metric(path.parent)
    metrics = dict.fromkeys([chosen, *METRICS] if chosen else METRICS)
    points: dict[str, dict[int, float]] = {key: {} for key in (LOSS, *metrics)}
    for iteration, entry in read_metrics(path).items():
        for key, values in points.items():
            value = entry.get(key)
            # A loss that overflowed is written as NaN or null, according to the writer.
            if isinstance(value, int | float) and abs(value) <= sys.float_info.max:
                values[iteration] = value
    if not any(points.values()):
        raise UserError(f"{path} has no {LOSS} and no scores yet: let the run go on for a while")
    metric = next((key for key in metrics if points[key]), chosen)
    return Curves(_array(points[LOSS]), metric, _array(points[metric] if metric else {}))


def smooth(values: np.ndarray, window: int) -> np.ndarray:
    """Centered moving mean of (N,) `values`; at the ends, over the part of the window that exists."""
    window = min(window, len(values))
    window -= 1 - window % 2  # odd, or the curve would shift by half an entry
    if window < 2:
        return values
    kernel = np.ones(window)
    return np.convolve(values, kernel, "same") / np.convolve(np.ones_like(values), kernel, "same")


def plot_curves(runs: Sequence[str | os.PathLike], path: str | os.PathLike) -> Path:
    """Draw the losses and the scores of `runs` into the PNG `path`.

    Losses are smoothed over 1/15 of the run, with the raw values behind. Every metric has a panel of its own.

    Returns:
        `path`.

    Raises:
        UserError: see :func:`read_curves`.
    """
    curves = {name: read_curves(run) for name, run in zip(_names(runs), runs, strict=True)}
    figure = draw_curves(curves)
    path = Path(path)
    with atomic_write(path) as temp, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # of scripts that the font lacks: boxes stand for them
        figure.savefig(temp, format="png")
    return path


def draw_curves(curves: dict[str, Curves]) -> Figure:
    """A matplotlib figure of the curves of runs, given by name: the losses, then each metric of the runs."""
    from matplotlib.figure import Figure

    metrics = list(dict.fromkeys(c.metric for c in curves.values() if c.metric)) or [None]
    figure = Figure(figsize=(6 * (1 + len(metrics)), 4.6), dpi=130, layout="constrained")
    named: dict[Line2D, str] = {}
    loss, *panels = figure.subplots(1, 1 + len(metrics), sharex=True)
    for i, (name, curve) in enumerate(curves.items()):
        tint = f"C{i % 10}"
        x, y = curve.loss.T
        loss.plot(x, y, color=tint, alpha=0.2, linewidth=0.8)
        (line,) = loss.plot(x, smooth(y, len(y) // 15), color=tint, linewidth=1.8)
        named[line] = name
        # A run that nothing is known about yet is listed in the first panel.
        panel = panels[metrics.index(curve.metric) if curve.metric else 0]
        x, y = curve.scores.T
        (line,) = panel.plot(x, y, color=tint, marker="o", markersize=4, linewidth=1.4)
        named[line] = f"{name} (best {_best(curve):.1f})" if len(y) else name
    titles = ["total loss", *(METRICS.get(m, m) if m else "evaluation" for m in metrics)]
    for panel, title in zip((loss, *panels), titles, strict=True):
        panel.set(xlabel="iteration", title=one_line(title))
        panel.grid(alpha=0.25)
        panel.spines[["top", "right"]].set_visible(False)
        # Handed over explicitly, or names that begin with an underscore would be left out.
        handles = [line for line in panel.lines if line in named]
        legend = panel.legend(handles, [named[line] for line in handles], frameon=False, fontsize=9)
        for text in (*legend.get_texts(), panel.title):
            text.set_parse_math(False)  # a dollar sign is one
    for panel, metric in zip(panels, metrics, strict=True):
        if not any(len(c.scores) for c in curves.values() if c.metric == metric):
            panel.text(0.5, 0.5, "not evaluated yet", transform=panel.transAxes, ha="center", color="0.5")
    return figure


def _best(curve: Curves) -> float:
    """The best score of a run that was evaluated."""
    scores = curve.scores[:, 1]
    return float(scores.min() if curve.metric and lower_is_better(curve.metric) else scores.max())


def _best_metric(run: Path) -> str | None:
    """`train.best_metric` of the config.yaml in the folder `run`; None if it is not there or empty."""
    try:
        config = yaml.load((run / "config.yaml").read_text(encoding="utf-8"), _PlainLoader)
        metric = config["train"]["best_metric"]
    except (OSError, ValueError, yaml.YAMLError, TypeError, KeyError):
        return None
    return metric if metric and isinstance(metric, str) else None


class _PlainLoader(yaml.SafeLoader):
    """A YAML loader that reads Python objects, which configs may contain, as None."""


_PlainLoader.add_multi_constructor("tag:yaml.org,2002:python/", lambda loader, suffix, node: None)


def _array(points: dict[int, float]) -> np.ndarray:
    return np.array(sorted(points.items()), dtype=float).reshape(-1, 2)


def _names(runs: Sequence[str | os.PathLike]) -> list[str]:
    """The folders' names, or their whole paths if two names are equal, or these with numbers."""
    paths = [Path(r) for r in runs]
    for names in ([p.resolve().name for p in paths], paths):
        names = [one_line(name, 60) for name in names]
        if len(set(names)) == len(names):
            return names
    return [f"{i} {name}" for i, name in enumerate(names, 1)]
