"""The report on an alignment: one page with figures and pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from ...pages import Html, joined, picture, read_part, section, table, tag, write_page
from .agreement import Agreement
from .estimate import Pair, corners, transform
from .warp import Warp

_WIDTH = 480
_PICTURES = 6
_EDGES = (255, 176, 0)
# Columns of the table, and their keys.
_COLUMNS = {
    "sampled": "sampled",
    "clear": "clear",
    "median left, px": "median_px",
    "three quarters within, px": "spread_px",
    "limit, px": "limit_px",
    "edge correlation before": "correlation_before",
    "after": "correlation_after",
}


def draw_edges(visible: np.ndarray, infrared: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 RGB: the visible image in gray, and over it the strongest edges of infrared in orange.

    Args:
        visible, infrared, seen: (H, W) uint8; `seen` is 0 where infrared shows nothing.
    """
    smooth = cv2.GaussianBlur(infrared, (0, 0), 1.2).astype(np.float32)
    strength = cv2.magnitude(cv2.Sobel(smooth, cv2.CV_32F, 1, 0), cv2.Sobel(smooth, cv2.CV_32F, 0, 1))
    inside = cv2.erode(seen, np.ones((7, 7), np.uint8), borderType=cv2.BORDER_CONSTANT, borderValue=0) > 0
    limit = np.quantile(strength[inside], 0.93) if inside.any() else np.inf
    picture = np.repeat(visible[..., None], 3, axis=2)
    picture[inside & (strength > limit)] = _EDGES
    return picture


def draw_checkerboard(visible: np.ndarray, infrared: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """(H, W) uint8: squares of the two images in turn; visible where infrared shows nothing."""
    rows, columns = (np.arange(n) * 8 // max(visible.shape) for n in visible.shape)
    return np.where(((rows[:, None] + columns) % 2 == 1) & (seen > 0), infrared, visible)


def _figures(warp: Warp, plain: Warp, pair: Pair) -> Html:
    visible, infrared = pair
    size = (_WIDTH, round(_WIDTH * visible.shape[0] / visible.shape[1]))
    still = cv2.resize(visible, size, interpolation=cv2.INTER_AREA)
    before, after = (
        [cv2.resize(x, size, interpolation=cv2.INTER_AREA) for x in (w.apply(infrared), w.seen())]
        for w in (plain, warp)
    )
    pictures = {
        "infrared's edges, before: only resized": draw_edges(still, *before),
        "infrared's edges, after": draw_edges(still, *after),
        "infrared and visible in turn, after": draw_checkerboard(still, *after),
    }
    return joined(*(tag("figure", picture(p, text), tag("figcaption", text)) for text, p in pictures.items()))


def corner_distance(warp: Warp, plain: Warp) -> float:
    """How far the warp moves the corners of the resized infrared image, in visible pixels on average."""
    ends = corners(warp.infrared_size)
    return float(np.linalg.norm(transform(warp.matrix, ends) - transform(plain.matrix, ends), axis=1).mean())


def write(
    path: Path,
    warp: Warp,
    plain: Warp,
    groups: dict[str, Agreement],
    pairs: dict[str, Pair],
    sources: Sequence[str],
) -> None:
    """Write the report as an HTML page, which needs no other file.

    Args:
        plain: the warp that only resizes.
        groups: the agreement of the pairs behind the estimate and of others, by what they are called.
        pairs: by name; six of those that are clear are drawn, from the worst to the best.
        sources: a line of text each on where images and warp come from.
    """
    rows = []
    for name, agreement in groups.items():
        figures = agreement.as_dict()
        rows.append([name, *(figures[key] for key in _COLUMNS.values())])
    clear = sorted((r for a in groups.values() for r in a.clear), key=lambda r: -r.length)
    chosen = [
        clear[i] for i in np.unique(np.linspace(0, len(clear) - 1, min(_PICTURES, len(clear))).astype(int))
    ]
    matrix = "\n".join("  ".join(f"{value:14.6g}" for value in row) for row in warp.matrix)
    body = joined(
        *(tag("p", line) for line in sources),
        tag(
            "p",
            "The corners of the resized infrared image move by "
            f"{corner_distance(warp, plain):.1f} px on average.",
        ),
        table(["pairs", *_COLUMNS], rows),
        tag(
            "p",
            "A pair is clear if its edges say where it belongs; others are left out of the figures. What is "
            "left is the shift that would make a pair fit best after the warp.",
        ),
        tag("pre", Html(matrix)),
        *(section(f"{r.name}: {r.length:.1f} px left", _figures(warp, plain, pairs[r.name])) for r in chosen),
    )
    write_page(path, "Alignment of infrared to visible", body, read_part("report.css", __file__))
