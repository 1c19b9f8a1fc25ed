"""Pictures of queries on a pair: their boxes through the decoder, and the points its last layer samples."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image, ImageDraw

from ..heads.dino.boxes import to_corners
from ..heads.dino.trace import Trace
from .boxes import Objects, draw_objects
from .panels import PAPER, RGB, Drawing, Panel, caption_font, color, enlargement

DOT = (255, 255, 255)
# Attention weights in the legend, relative to an equal distribution; the color scale ends with the last.
SHARES = (0.25, 1, 2, 4)
FAINTEST = 0.6  # brightness of the first box, relative to the last one


def draw_queries(
    vis: np.ndarray,
    ir: np.ndarray,
    queries: Trace,
    shown: Trace,
    classes: Sequence[str] = (),
    labels: str = "auto",
) -> Drawing:
    """Draw queries on both images, in two rows.

    The upper row has the boxes of `shown` through the decoder: from the encoder's selection, thin and dark,
    to the detection, thick and named. Dots mark the centers that all `queries` start from. The lower row has
    the points that the heads of the last layer sample for `shown` in all maps, colored by attention weight,
    with the strongest on top.

    Args:
        vis, ir: (H, W, 3) uint8 RGB of equal size.
        queries: all queries that the encoder selected.
        shown: the queries to draw.
        classes: names by contiguous class id.
        labels: see :func:`.boxes.draw_objects`.
    """
    height, width = vis.shape[:2]
    scale = enlargement(width)
    size = width * scale, height * scale
    images = {
        name: Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)
        for name, image in (("visible", vis), ("infrared", ir))
    }
    boxes = to_corners(shown.boxes).numpy() * np.tile([width, height], 2)
    scores, categories = shown.scores.max(1)
    objects = Objects(boxes[-1], categories.tolist(), scores.tolist())
    font = caption_font(size[0])
    starts = queries.boxes[0, :, :2].numpy() * size
    layers = len(boxes) - 1

    moves = [_moves(i, boxes[:-1] * scale, objects, starts) for i in images.values()]
    moves = [draw_objects(i, objects, classes, scale, font, labels) for i in moves]
    sampled = [_points(i, boxes[-1] * scale, objects, shown) for i in images.values()]
    titles = (
        f"best {len(objects)} of {len(starts)} queries",
        f"points that decoder layer {layers} samples for them",
    )
    rows = [
        [Panel(image, name, title) for image, name in zip(row, images, strict=True)]
        for row, title in zip((moves, sampled), titles, strict=True)
    ]
    even = 1 / (shown.weights.shape[2] * shown.weights.shape[3])
    legend = [
        (
            f"{'attention weight ' * (not i)}{share * even:.2f}{'+' * (share == SHARES[-1])}",
            ramp(share / SHARES[-1]),
        )
        for i, share in enumerate(SHARES)
    ]
    remark = f"thin to thick: the encoder's box, then after layers 1 to {layers}; dots: start of all queries"
    return Drawing(rows, legend, remark, compared=0)


def _moves(image: Image.Image, boxes: np.ndarray, objects: Objects, starts: np.ndarray) -> Image.Image:
    """`image` with dots at `starts` (Q, 2) and the boxes (D, N, 4) before the last, all in its pixels."""
    image = image.copy()
    pen = ImageDraw.Draw(image)
    radius = image.width / 400
    for x, y in starts:
        _dot(pen, x, y, radius, DOT)
    widest = max(2, round(image.width / 300))
    for d, layer in enumerate(boxes):
        share = d / len(boxes)
        for box, category in zip(layer, objects.classes, strict=True):
            rgb = tuple(round(v * (FAINTEST + (1 - FAINTEST) * share)) for v in color(category))
            pen.rectangle(tuple(np.round(box)), outline=rgb, width=max(1, round(widest * share)))
    return image


def _points(image: Image.Image, boxes: np.ndarray, objects: Objects, shown: Trace) -> Image.Image:
    """`image` with `boxes` (N, 4) in its pixels and the points that these queries sample."""
    image = image.copy()
    pen = ImageDraw.Draw(image)
    for box, category in zip(boxes, objects.classes, strict=True):
        pen.rectangle(tuple(np.round(box)), outline=color(category), width=1)
    top = SHARES[-1] / (shown.weights.shape[2] * shown.weights.shape[3])
    shares = (shown.weights.flatten() / top).clamp(max=1).numpy()
    locations = shown.locations.flatten(0, -2).numpy() * image.size
    for i in np.argsort(shares, kind="stable"):
        x, y = locations[i]
        _dot(pen, x, y, image.width / 300 * (0.5 + shares[i]), ramp(shares[i]))
    return image


def _dot(pen: ImageDraw.ImageDraw, x: float, y: float, radius: float, rgb: RGB) -> None:
    for r, fill in ((radius + 1, PAPER), (radius, rgb)):
        pen.ellipse((x - r, y - r, x + r, y + r), fill=fill)


def ramp(share: float) -> RGB:
    """The color of a share: from violet at 0 to yellow at 1, perceptually uniform."""
    level = np.array(
        [[round(40 + 215 * share)]], np.uint8
    )  # the darkest colors would not show on scenes at night
    return tuple(cv2.applyColorMap(level, cv2.COLORMAP_PLASMA)[0, 0, ::-1].tolist())
