"""Charts of a comparison: the score against trained parameters, training pairs and seconds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ..utils.files import atomic_write
from .table import HEADS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MARKERS = "osDv^<>Ph*Xd"


def draw(results: dict, output: Path) -> list[Path]:
    """Draw the charts that the rows give points for, as PNG files in `output`; returns their paths."""
    rows = [row for row in results["rows"] if row["missing"] is None]
    rows = [row for row in rows if results["conditions"]["metric"] in row["figures"]]
    names = list(dict.fromkeys(row["name"] for row in rows))
    largest = [row for row in rows if row["pairs"] == rows[-1]["pairs"]]
    charts: dict[str, tuple[list[dict], str, Callable]] = {
        # A row that trains nothing in the backbone has no place on a logarithmic axis.
        "parameters": (
            [row for row in largest if row["backbone_trainable"]],
            "trained parameters of the backbone",
            lambda row: row["backbone_trainable"],
        ),
        "seconds": (
            [row for row in largest if row["seconds"]],
            "seconds of training",
            lambda r: r["seconds"],
        ),
        "pairs": ([row for row in rows if row["pairs"]], "training pairs", lambda row: row["pairs"]),
    }
    paths = []
    for name, (shown, label, x) in charts.items():
        if shown:
            path = output / f"score_by_{name}.png"
            with atomic_write(path) as temp:
                _chart(shown, names, results["conditions"]["metric"], label, x).savefig(temp, format="png")
            paths.append(path)
    return paths


def _chart(rows: list[dict], names: list[str], metric: str, label: str, x: Callable[[dict], float]) -> Figure:
    """One line or point for every row of the comparison, with the standard deviation as a bar.

    Args:
        names: of the rows of all charts; a row has the same color and marker in each.
    """
    from matplotlib import ticker
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.6), dpi=130, layout="constrained")
    panel = figure.subplots()
    for i, name in enumerate(names):
        own = [(x(row), row["figures"][metric]) for row in rows if row["name"] == name]
        own.sort(key=lambda point: point[0])
        if not own:
            continue
        means, spreads = [f["mean"] for _, f in own], [f["std"] or 0 for _, f in own]
        panel.errorbar(
            [value for value, _ in own],
            means,
            spreads,
            label=name,
            color=f"C{i % 10}",
            marker=MARKERS[i % len(MARKERS)],
            capsize=2,
            linewidth=1.2,
        )
    panel.set(xlabel=label, ylabel=HEADS.get(metric, metric), xscale="log")
    # A narrow range would get a label at every multiple of a power of ten, one over the other.
    panel.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    panel.xaxis.set_major_formatter(ticker.EngFormatter(sep=""))
    panel.xaxis.set_minor_formatter(ticker.NullFormatter())
    panel.grid(alpha=0.25)
    panel.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right center", frameon=False, fontsize=8)
    return figure
