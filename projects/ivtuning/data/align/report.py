"""The report on an alignment: one page with figures and pictures."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence

import cv2
import numpy as np

from .agreement import Agreement
from .estimate import Pair, corners, transform
from .warp import Warp

_WIDTH = 480
_PICTURES = 6
_EDGES = (255, 176, 0)
_STYLE = (
    "body{font:15px/1.45 system-ui,sans-serif;max-width:1500px;margin:2em auto;padding:0 1em;color:#222}"
    "table{border-collapse:collapse}td,th{padding:.2em .8em;text-align:right;border-bottom:1px solid #ddd}"
    "td:first-child,th:first-child{text-align:left}figure{display:inline-block;margin:.3em;width:31%}"
    "img{width:100%}figcaption{color:#555}@media(max-width:700px){figure{width:98%}}"
)


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


def _picture(pixels: np.ndarray, caption: str) -> str:
    bgr = pixels[..., ::-1] if pixels.ndim == 3 else pixels
    data = base64.b64encode(cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes()).decode()
    text = html.escape(caption)
    image = f'<img alt="{text}" src="data:image/jpeg;base64,{data}">'
    return f"<figure>{image}<figcaption>{text}</figcaption></figure>"


def _figures(warp: Warp, plain: Warp, pair: Pair) -> str:
    visible, infrared = pair
    size = (_WIDTH, round(_WIDTH * visible.shape[0] / visible.shape[1]))
    pictures = []
    for caption, used in (("before: only resized", plain), ("after", warp)):
        shown, view = (
            cv2.resize(image, size, interpolation=cv2.INTER_AREA)
            for image in (used.apply(infrared), used.seen())
        )
        still = cv2.resize(visible, size, interpolation=cv2.INTER_AREA)
        pictures.append(_picture(draw_edges(still, shown, view), f"infrared's edges, {caption}"))
        if used is warp:
            pictures.append(
                _picture(draw_checkerboard(still, shown, view), "infrared and visible in turn, after")
            )
    return "".join(pictures)


def corner_distance(warp: Warp, plain: Warp) -> float:
    """How far the warp moves the corners of the resized infrared image, in visible pixels on average."""
    ends = corners(warp.infrared_size)
    return float(np.linalg.norm(transform(warp.matrix, ends) - transform(plain.matrix, ends), axis=1).mean())


def page(
    warp: Warp, plain: Warp, groups: dict[str, Agreement], pairs: dict[str, Pair], sources: Sequence[str]
) -> str:
    """The report as HTML, which needs no other file.

    Args:
        plain: the warp that only resizes.
        groups: the agreement of the pairs behind the estimate and of others, by what they are called.
        pairs: by name; six of those that are clear are drawn, from the worst to the best.
        sources: a line of text each on where images and warp come from.
    """
    rows = []
    for name, agreement in groups.items():
        d = agreement.as_dict()
        cells = [
            d["sampled"],
            d["clear"],
            d["median_px"],
            d["spread_px"],
            d["limit_px"],
            d["correlation_before"],
        ]
        cells.append(d["correlation_after"])
        rows.append(
            f"<tr><td>{html.escape(name)}</td>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"
        )
    clear = sorted((r for a in groups.values() for r in a.clear), key=lambda r: -r.length)
    chosen = [
        clear[i] for i in np.unique(np.linspace(0, len(clear) - 1, min(_PICTURES, len(clear))).astype(int))
    ]
    shown = "".join(
        f"<h2>{html.escape(r.name)}: {r.length:.1f} px left</h2>{_figures(warp, plain, pairs[r.name])}"
        for r in chosen
    )
    matrix = "\n".join("  ".join(f"{value:14.6g}" for value in row) for row in warp.matrix)
    lines = "".join(f"<p>{html.escape(line)}</p>" for line in sources)
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>Alignment</title><style>{_STYLE}</style><h1>Alignment of infrared to visible</h1>{lines}"
        "<p>The corners of the resized infrared image move by "
        f"{corner_distance(warp, plain):.1f} px on average.</p>"
        "<table><tr><th>pairs</th><th>sampled</th><th>clear</th><th>median left, px</th>"
        "<th>three quarters within, px</th><th>limit, px</th><th>edge correlation before</th>"
        f"<th>after</th></tr>{''.join(rows)}</table><p>A pair is clear if its edges say where it belongs; "
        "others are left out of the figures. What is left is the shift that would make a pair fit best after "
        "the warp.</p>"
        f"<pre>{matrix}</pre>{shown}</html>\n"
    )
