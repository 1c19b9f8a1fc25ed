"""Line charts as SVG in the page: axes and lines here, values under the pointer by the page's script."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence

import numpy as np

from ..pages import Html, tag

WIDTH, HEIGHT = 560, 300  # of a chart, in pixels of its own
LEFT, RIGHT, TOP, BOTTOM = 58, 12, 12, 50  # around the axes
POINTS = 400  # most points of a line; more would not be seen
# Dark enough for lines on white, and distinguishable with the common color-vision deficiencies.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b8860b", "#56b4e9", "#7a3e9d", "#4d4d4d")
DASHES = ("", "6 3", "2 3")

Line = Sequence[tuple[float, float]]


def line_chart(
    title: str,
    lines: Mapping[str, Line],
    x_label: str,
    x_range: tuple[float, float] | None = None,
    y_range: tuple[float, float] | None = None,
) -> Html:
    """A chart of lines by name, with a legend; empty without any finite point.

    Args:
        lines: (x, y) pairs by x; those that are not finite are left out.
        x_range, y_range: of the axes; None fits them to the lines.
    """
    kept = {name: _finite(line) for name, line in lines.items()}
    kept = {name: line for name, line in kept.items() if len(line)}
    if not kept:
        return Html()
    every = np.concatenate(list(kept.values()))
    x_ticks = _ticks(*(x_range or _range(every[:, 0])))
    y_ticks = _ticks(*(y_range or _range(every[:, 1])))
    (x0, x1), (y0, y1) = x_range or (every[:, 0].min(), every[:, 0].max()), (y_ticks[0], y_ticks[-1])
    x1 = x1 if x1 > x0 else x0 + 1
    wide, tall = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def at(points: np.ndarray) -> np.ndarray:
        x = LEFT + wide * (points[:, 0] - x0) / (x1 - x0)
        y = TOP + tall * (1 - (points[:, 1] - y0) / (y1 - y0))
        return np.stack([x, y], 1).round(1)

    parts = []
    for y in y_ticks:
        height = at(np.array([[x0, y]]))[0, 1]
        parts.append(tag("line", class_="grid", x1=LEFT, x2=WIDTH - RIGHT, y1=height, y2=height))
        parts.append(tag("text", _number(y), x=LEFT - 6, y=height + 4, class_="y"))
    for x in x_ticks:
        if x0 <= x <= x1:
            place = at(np.array([[x, y0]]))[0, 0]
            parts.append(tag("text", _number(x), x=place, y=HEIGHT - BOTTOM + 21, class_="x"))
    parts.append(tag("text", x_label, x=LEFT + wide / 2, y=HEIGHT - 5, class_="x"))
    legend, data = [], []
    for name, line in kept.items():
        k = list(lines).index(name)  # so that a name has one color in all charts of the same names
        color, dash = COLORS[k % len(COLORS)], DASHES[k // len(COLORS) % len(DASHES)]
        pixels = at(line)
        style = {"stroke": color, "stroke_dasharray": dash}
        parts.append(tag("polyline", points=" ".join(f"{x:g},{y:g}" for x, y in pixels), **style))
        if len(pixels) <= 25:
            parts += [tag("circle", cx=x, cy=y, r=2.5, fill=color) for x, y in pixels]
        swatch = tag("svg", tag("line", x1=0, x2=22, y1=5, y2=5, **style), width=22, height=10)
        legend.append(tag("li", swatch, name))
        points = [[_short(x), _short(y), *p] for (x, y), p in zip(line, pixels.tolist(), strict=True)]
        data.append({"name": name, "color": color, "points": points})
    svg = tag(
        "svg",
        tag("g", *parts),
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        role="img",
        aria_label=f"{title}: {', '.join(kept)}",
    )
    # Inside a script nothing is escaped; "<" alone could end it.
    values = Html(json.dumps({"x": x_label, "lines": data}).replace("<", "\\u003c"))
    script = Html(f'<script type="application/json">{values}</script>')
    return tag(
        "figure", tag("figcaption", title), svg, tag("ul", *legend, class_="legend"), script, class_="chart"
    )


def charts(*drawn: Html) -> list[Html]:
    """Charts side by side; nothing if all are empty."""
    shown = [chart for chart in drawn if chart]
    return [tag("div", *shown, class_="charts")] if shown else []


def _finite(line: Line) -> np.ndarray:
    """The finite points of a line, (N, 2) float64, thinned out to POINTS."""
    points = np.array([p for p in line if all(map(math.isfinite, p))], float).reshape(-1, 2)
    if len(points) > POINTS:
        points = points[np.linspace(0, len(points) - 1, POINTS).round().astype(int)]
    return points


def _range(values: np.ndarray) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    low = 0.0 if 0 < low < high / 2 else low  # near zero, zero is a better end
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _ticks(low: float, high: float) -> list[float]:
    """About five round numbers, the first at most `low` and the last at least `high`."""
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high).tolist()


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 and value == round(value) else f"{value:.3g}"


def _short(value: float) -> float:
    """A value with as many digits as the page shows."""
    return int(value) if value == int(value) else float(f"{value:.5g}")
