"""Numbers, bars and confusion matrices of the report's tables."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ..pages import Html, tag


def figure(value: float | None) -> str:
    """A number as tables show it; a dash where there is none."""
    return "–" if value is None or math.isnan(value) else f"{value:,.1f}"


def bar(value: float | None) -> Html:
    """A cell with a number on 0..100 and a bar of that length."""
    length = 0 if value is None or math.isnan(value) else min(max(value, 0), 100)
    return tag("td", figure(value), class_="bar", style=f"--part:{length:.1f}%")


def confusion_table(matrix: np.ndarray, rows: Sequence[str], columns: Sequence[str], corner: str) -> Html:
    """A confusion matrix of counts as shares of each row, in percent; cells show the count when pointed at.

    Args:
        matrix: (R, C) counts.
    """
    totals = matrix.sum(1)
    lines = [tag("tr", tag("th", corner), *(tag("th", c, scope="col") for c in columns), tag("th", "count"))]
    for name, counts, total in zip(rows, matrix.tolist(), totals.tolist(), strict=True):
        cells = []
        for column, count in zip(columns, counts, strict=True):
            share = count / total if total else 0.0
            kind = "hit" if column == name else "miss"
            shade = tag(
                "td",
                f"{100 * share:.1f}" if count else "",
                class_=f"{kind}{' dark' if share > 0.55 else ''}",
                style=f"--share:{share:.3f}",
                title=f"{name} as {column}: {count:,}",
            )
            cells.append(shade)
        cells.append(tag("td", f"{total:,}"))
        lines.append(tag("tr", tag("th", name, scope="row"), *cells))
    return tag("div", tag("table", *lines, class_="confusion"), class_="scroll")
