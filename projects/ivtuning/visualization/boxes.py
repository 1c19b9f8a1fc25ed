"""Pictures of a pair with boxes: visible | infrared | blend, a row each for ground truth and predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pycocotools.mask as mask_util
import torch
from detectron2.structures import BoxMode, Instances, RotatedBoxes
from detectron2.structures.masks import polygons_to_bitmask
from PIL import Image, ImageDraw, ImageFont

from ..errors import UserError
from ..oriented.boxes import corners
from .panels import PAPER, RGB, Drawing, Panel, caption_font, class_name, color, enlargement

PANELS = ("visible", "infrared", "blend")


@dataclass
class Objects:
    """Objects to draw in one row. Boxes are (N, 4) XYXY in pixels of the image, masks (H, W) bool or None.

    Oriented boxes also have corners (N, 4, 2), around which `boxes` are.
    """

    boxes: np.ndarray
    classes: list[int]
    scores: list[float] | None = None
    dashed: list[bool] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    masks: list[np.ndarray | None] = field(default_factory=list)
    corners: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.classes)


def draw_pair(
    vis: np.ndarray,
    ir: np.ndarray,
    truth: Sequence[dict] | None = None,
    prediction: Instances | None = None,
    classes: Sequence[str] = (),
    threshold: float = 0.0,
    labels: str = "auto",
) -> Drawing:
    """Draw one pair as three captioned panels side by side, a row each for ground truth and predictions.

    Args:
        vis: (H, W, 3) uint8 RGB.
        ir: (H, W) or (H, W, 3) uint8, of the same H, W.
        truth: annotations of a detectron2 dataset dict; those with ``modality`` "visible" or "infrared" get
            a dashed outline. None: no such row.
        prediction: detectron2 `Instances` with `pred_boxes` in pixels of the image, `scores`,
            `pred_classes` and optionally `pred_masks`; or those of several models by name, a row each.
            None: no such row.
        classes: names by contiguous class id.
        threshold: least score of a drawn prediction.
        labels: see :func:`draw_objects`.

    Returns:
        The drawing. Without `truth` and `prediction`: one row of bare panels.

    Raises:
        UserError: the two images differ in size.
    """
    ir = np.repeat(ir[:, :, None], 3, axis=2) if ir.ndim == 2 else ir
    if vis.shape != ir.shape:
        sizes = [f"{a.shape[1]}x{a.shape[0]}" for a in (vis, ir)]
        raise UserError(
            f"visible is {sizes[0]} but infrared {sizes[1]}: align them with datasets/align_pairs.py"
        )
    height, width = vis.shape[:2]
    rows: list[tuple[str, Objects | None]] = []
    if truth is not None:
        objects = from_annotations(truth, height, width)
        rows.append((f"ground truth · {len(objects)}", objects))
    if prediction is not None:
        models = prediction if isinstance(prediction, Mapping) else {"predictions": prediction}
        for name, instances in models.items():
            objects = from_instances(instances, threshold)
            rows.append((f"{name} · {len(objects)}", objects))
    rows = rows or [("", None)]

    scale = enlargement(width)
    size = width * scale, height * scale
    blend = ((vis.astype(np.uint16) + ir) // 2).astype(np.uint8)
    images = [Image.fromarray(a).resize(size, Image.Resampling.BICUBIC) for a in (vis, ir, blend)]
    font = caption_font(size[0])
    panels = []
    for title, objects in rows:
        drawn = [
            i if objects is None else draw_objects(i, objects, classes, scale, font, labels) for i in images
        ]
        panels.append([Panel(i, name, title) for i, name in zip(drawn, PANELS, strict=True)])
    shown = sorted({c for _, objects in rows if objects for c in objects.classes})
    dashed = any(any(objects.dashed) for _, objects in rows if objects)
    legend = [(class_name(c, classes), color(c)) for c in shown]
    return Drawing(panels, legend, "dashed: only one camera shows it" if dashed else "")


def from_annotations(annotations: Sequence[dict], height: int, width: int) -> Objects:
    """The objects of a dataset dict's `annotations`, on an image of `height` x `width` pixels."""
    boxes = [BoxMode.convert(list(a["bbox"]), a["bbox_mode"], BoxMode.XYXY_ABS) for a in annotations]
    outlines = None
    if any(a["bbox_mode"] == BoxMode.XYWHA_ABS for a in annotations):
        outlines = corners(torch.tensor([a["bbox"] for a in annotations], dtype=torch.float64)).numpy()
    return Objects(
        np.array(boxes, dtype=float).reshape(-1, 4),
        [a["category_id"] for a in annotations],
        corners=outlines,
        dashed=[a.get("modality", "both") != "both" for a in annotations],
        notes=["crowd" if a.get("iscrowd") else "" for a in annotations],
        masks=[_mask(a.get("segmentation"), height, width) for a in annotations],
    )


def from_instances(instances: Instances, threshold: float = 0.0) -> Objects:
    """The objects of detectron2 `Instances` that score at least `threshold`, best first."""
    instances = instances.to("cpu")
    scores = instances.scores.numpy()
    order = [i for i in np.argsort(-scores, kind="stable") if scores[i] >= threshold]
    boxes = instances.pred_boxes.tensor.detach()[order]
    outlines = None
    if isinstance(instances.pred_boxes, RotatedBoxes):
        outlines = corners(boxes.double()).numpy()
        boxes = BoxMode.convert(boxes, BoxMode.XYWHA_ABS, BoxMode.XYXY_ABS)
    return Objects(
        boxes.numpy().reshape(-1, 4),
        instances.pred_classes.numpy()[order].tolist(),
        scores[order].tolist(),
        corners=outlines,
        masks=[instances.pred_masks[int(i)].numpy() for i in order] if instances.has("pred_masks") else [],
    )


def draw_objects(
    image: Image.Image,
    objects: Objects,
    classes: Sequence[str],
    scale: int,
    font: ImageFont.FreeTypeFont,
    labels: str = "auto",
) -> Image.Image:
    """A copy of `image` with `objects` drawn on it, their coordinates multiplied by `scale`.

    Args:
        labels: what is written at each box: "all" writes the name and the score, "class" the name alone, and
            "none" nothing. "auto" writes both where they cover no other label, or the name alone where that
            finds room; else the color has to do.
    """
    image = image.copy()
    for mask, category in zip(objects.masks, objects.classes, strict=False):
        if mask is not None:
            veil = Image.fromarray(mask.astype(np.uint8) * 75).resize(image.size, Image.Resampling.NEAREST)
            image.paste(color(category), mask=veil)
    pen = ImageDraw.Draw(image)
    line = max(2, round(image.width / 300))
    boxes = np.round(objects.boxes * scale).astype(int)
    dashed = objects.dashed or [False] * len(objects)
    for i, (box, category, broken) in enumerate(zip(boxes, objects.classes, dashed, strict=True)):
        if objects.corners is None:
            _outline(pen, box, color(category), line, 4 * line if broken else 0)
        else:
            _polygon(pen, objects.corners[i] * scale, color(category), line, 4 * line if broken else 0)
    taken: list[tuple] = []
    for i, (box, category) in enumerate(zip(boxes, objects.classes, strict=True)):
        for text in _texts(objects, i, classes, labels):
            if draw_label(pen, box, text, color(category), font, image.size, taken, labels != "auto"):
                break
    return image


def _texts(objects: Objects, i: int, classes: Sequence[str], labels: str) -> list[str]:
    """The labels of object `i` to try, in this order."""
    name = class_name(objects.classes[i], classes)
    full = name
    if objects.scores is not None:
        full += f" {objects.scores[i]:.2f}"
    if objects.notes and objects.notes[i]:
        full += f" ({objects.notes[i]})"
    return {"all": [full], "class": [name], "none": [], "auto": list(dict.fromkeys([full, name]))}[labels]


def _mask(segmentation, height: int, width: int) -> np.ndarray | None:
    if not segmentation:
        return None
    if isinstance(segmentation, list):
        return polygons_to_bitmask([np.asarray(p, dtype=float) for p in segmentation], height, width)
    if isinstance(segmentation["counts"], list):
        segmentation = mask_util.frPyObjects(segmentation, height, width)
    return mask_util.decode(segmentation).astype(bool)


def _outline(pen, box, rgb, line: int, dash: int) -> None:
    """Draw a rectangle with a dark border, to show on any background; dashed if `dash` (pixels) is not 0."""
    x0, y0, x1, y1 = (int(v) for v in box)
    if not dash:
        pen.rectangle((x0 - 1, y0 - 1, x1 + 1, y1 + 1), outline=PAPER, width=line + 2)
        pen.rectangle((x0, y0, x1, y1), outline=rgb, width=line)
        return
    _polygon(pen, np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], float), rgb, line, dash)


def _polygon(pen, points: np.ndarray, rgb, line: int, dash: int) -> None:
    """Draw the outline of a polygon (P, 2) as :func:`_outline` draws a rectangle's."""
    if not dash:
        closed = [tuple(point) for point in (*points, *points[:2])]  # both ends of the first edge are joined
        pen.line(closed, fill=PAPER, width=line + 2, joint="curve")
        pen.line(closed, fill=rgb, width=line, joint="curve")
        return
    for start, end in zip(points, np.roll(points, -1, 0), strict=True):
        length = np.hypot(*(end - start))
        # With an odd number of equal pieces, every side begins and ends with a dash.
        pieces = max(3, 2 * round(length / dash / 2) + 1)
        for k in range(0, pieces, 2):
            piece = [tuple(start + (end - start) * f / pieces) for f in (k, k + 1)]
            pen.line(piece, fill=PAPER, width=line + 2)
            pen.line(piece, fill=rgb, width=line)


def draw_label(
    pen: ImageDraw.ImageDraw,
    box: Sequence[float],
    text: str,
    rgb: RGB,
    font: ImageFont.FreeTypeFont,
    size: tuple[int, int],
    taken: list[tuple],
    cover: bool = True,
) -> bool:
    """Write `text` on a patch of `rgb`, at the place around `box` that other labels cover least.

    Args:
        taken: the patches of the labels so far, (x0, y0, x1, y1) each, which this one joins.
        cover: whether it may cover other labels.

    Returns:
        Whether it is written: False if it may not cover others, and there is no place left.
    """
    pad = max(2, round(font.size / 6))
    wide, tall = round(pen.textlength(text, font)) + 2 * pad, round(font.size * 1.15) + pad
    x0, y0, x1, y1 = (int(v) for v in box)
    corners = [
        (x0, y0 - tall),
        (x0, y1 + 1),
        (x1 - wide, y0 - tall),
        (x1 - wide, y1 + 1),
        (x0, y0),
        (x1 + 1, y0),
    ]
    patches = []
    for x, y in corners:
        x, y = min(max(x, 0), max(size[0] - wide, 0)), min(max(y, 0), max(size[1] - tall, 0))
        patches.append((x, y, x + wide, y + tall))
    covered = [sum(_overlap(p, t) for t in taken) for p in patches]
    patch = patches[covered.index(min(covered))]
    if min(covered) and not cover:
        return False
    taken.append(patch)
    pen.rectangle(patch, fill=rgb)
    dark = np.dot(rgb, (0.299, 0.587, 0.114)) < 120
    middle = (patch[0] + pad, (patch[1] + patch[3]) / 2)
    pen.text(middle, text, (255, 255, 255) if dark else (0, 0, 0), font, anchor="lm")
    return True


def _overlap(a: tuple, b: tuple) -> int:
    return max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
