"""Training curves of several runs on one axis, from the metrics.json that detectron2's JSONWriter keeps."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..errors import UserError


def read_metrics(run: str | os.PathLike) -> dict[str, np.ndarray]:
    """Read the finite `total_loss` and `bbox/AP` of the run in folder `run`.

    Where a resumed run repeats an iteration, the later line counts. A cut last line is left out: the run
    is still writing, or was killed.

    Returns:
        {"total_loss": (N, 2), "bbox/AP": (M, 2)} float64 of (iteration, value), by iteration.

    Raises:
        UserError: no such file, a line that is not JSON, or nothing to draw.
    """
    path = Path(run) / "metrics.json"
    if not path.is_file():
        raise UserError(f"no {path}: --curves takes the output folders of training runs")
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    found: dict[str, dict[int, float]] = {"total_loss": {}, "bbox/AP": {}}
    for number, line in enumerate(lines, 1):
        try:
            entry = json.loads(line)
            iteration = int(entry["iteration"])
        except (ValueError, TypeError, KeyError) as error:
            if number == len(lines):
                break
            raise UserError(f"{path} line {number} is no line of metrics: remove it") from error
        for key, points in found.items():
            if np.isfinite(entry.get(key, np.nan)):
                points[iteration] = entry[key]
    if not any(found.values()):
        raise UserError(f"{path} holds neither total_loss nor bbox/AP yet: let the run go on for a while")
    return {k: np.array(sorted(v.items()), dtype=float).reshape(-1, 2) for k, v in found.items()}


def smooth(values: np.ndarray, window: int) -> np.ndarray:
    """Centered moving mean of (N,) `values`; at the ends over what there is of the window."""
    window = min(window, len(values))
    window -= 1 - window % 2  # odd, or the curve would shift by half an entry
    if window < 2:
        return values
    kernel = np.ones(window)
    return np.convolve(values, kernel, "same") / np.convolve(np.ones_like(values), kernel, "same")


def plot_curves(runs: Sequence[str | os.PathLike], path: str | os.PathLike) -> Path:
    """Draw `total_loss` (smoothed over 1/15 of the run, raw behind it) and the `bbox/AP` points of `runs`.

    Returns:
        `path`, a PNG.

    Raises:
        UserError: see :func:`read_metrics`.
    """
    from matplotlib.figure import Figure

    curves = {name: read_metrics(run) for name, run in zip(_names(runs), runs, strict=True)}
    figure = Figure(figsize=(12, 4.6), dpi=130, layout="constrained")
    loss, ap = figure.subplots(1, 2, sharex=True)
    for i, (name, curve) in enumerate(curves.items()):
        tint = f"C{i % 10}"
        x, y = curve["total_loss"].T
        loss.plot(x, y, color=tint, alpha=0.2, linewidth=0.8)
        loss.plot(x, smooth(y, len(y) // 15), color=tint, linewidth=1.8, label=name)
        x, y = curve["bbox/AP"].T
        best = f"{name} (best {y.max():.1f})" if len(y) else name
        ap.plot(x, y, color=tint, marker="o", markersize=4, linewidth=1.4, label=best)
    for axis, what in ((loss, "total loss"), (ap, "box AP")):
        axis.set(xlabel="iteration", title=what)
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(frameon=False, fontsize=9)
    if not any(len(c["bbox/AP"]) for c in curves.values()):
        ap.text(0.5, 0.5, "not evaluated yet", transform=ap.transAxes, ha="center", color="0.5")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    figure.savefig(part, format="png")
    os.replace(part, path)
    return path


def _names(runs: Sequence[str | os.PathLike]) -> list[str]:
    """Folder names; whole paths where two would be alike."""
    paths = [Path(r) for r in runs]
    names = [p.resolve().name for p in paths]
    return names if len(set(names)) == len(names) else [str(p) for p in paths]
