"""Pictures of label maps: over visible | over infrared | the map itself | its errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cv2
import numpy as np
from PIL import Image

from ..data.labels import IGNORE
from ..errors import UserError
from ..evaluation.confusion import confusion, summary
from ..evaluation.saliency import gray_levels, is_saliency, labels_of, measure
from ..evaluation.saliency import summary as saliency_summary
from .colors import distinct
from .panels import RGB, Drawing, Panel, class_name, enlargement

VEIL = 0.55  # opacity of a class' color over the image
EDGE = 0.5  # and over white, on outlines
WRONG, IGNORED = (255, 64, 64), (110, 114, 122)
DIM = 0.45  # brightness of the image below the errors


def draw_label_maps(
    vis: np.ndarray | None,
    ir: np.ndarray | None,
    truth: np.ndarray | None = None,
    prediction: np.ndarray | Mapping[str, np.ndarray] | None = None,
    classes: Sequence[str] = (),
    colors: Sequence[RGB] = (),
) -> Drawing:
    """Draw the label maps of one pair, a row each for ground truth and prediction.

    A row shows the map over the visible image, over the infrared image, and alone. A prediction with a ground
    truth also shows its errors, with ignored pixels in gray. A black class, which is the background in every
    palette that has one, leaves the image unchanged.

    Args:
        vis, ir: (H, W, 3) uint8 RGB of equal size; one of them may be None, and has no column then.
        truth: (H, W) uint8 class ids, 255 where ignored; None: no such row.
        prediction: (H, W) uint8 class ids, or those of several models by name, a row each; None: no such
            row. Probabilities (H, W) of being salient are shown in gray where the map alone would be.
        classes: names by class id.
        colors: RGB by class id, see :func:`palette`.

    Returns:
        The drawing. Without `truth` and `prediction`: one row of bare images.

    Raises:
        UserError: a map and the image differ in size.
    """
    base = vis if vis is not None else ir
    height, width = base.shape[:2]
    predictions = prediction if isinstance(prediction, Mapping) else {"prediction": prediction}
    maps = {"ground truth": truth, **predictions}
    maps = {name: labels for name, labels in maps.items() if labels is not None}
    for name, labels in maps.items():
        if labels.shape != (height, width):
            raise UserError(
                f"{name} is {labels.shape[1]}x{labels.shape[0]} but the image {width}x{height}: "
                "both must be of one size"
            )
    table = palette(colors)
    scale = enlargement(width)
    size = width * scale, height * scale
    images = {
        name: np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))
        for name, image in (("visible", vis), ("infrared", ir))
        if image is not None
    }
    rows, wrong_shown = [], False
    for name, values in maps.items():
        judged = truth is not None and values is not truth
        title = f"{name} · {caption(truth, values, len(classes))}" if judged else name
        labels = maps[name] = labels_of(values)
        large = _enlarge(labels, size)
        row = [Panel(Image.fromarray(overlay(image, large, table)), n, title) for n, image in images.items()]
        if is_saliency(values):
            gray = Image.fromarray(gray_levels(values)).resize(size, Image.Resampling.BICUBIC)
            row.append(Panel(gray.convert("RGB"), "saliency map", f"{100 * labels.mean():.1f} % salient"))
        else:
            count = len(np.setdiff1d(labels, IGNORE))
            note = f"{count} class{'es' * (count != 1)}"
            row.append(Panel(Image.fromarray(table[large]), "label map", note))
        if judged:
            wrong = (labels != truth) & (truth != IGNORE)
            wrong_shown |= bool(wrong.any())
            share = f"{100 * wrong.sum() / max((truth != IGNORE).sum(), 1):.1f} % of the pixels"
            picture = _errors(next(iter(images.values())), _enlarge(wrong, size), _enlarge(truth, size))
            row.append(Panel(Image.fromarray(picture), "errors", share))
        rows.append(row)
    rows = rows or [[Panel(Image.fromarray(image), name) for name, image in images.items()]]
    shown = sorted(set().union(*(np.unique(labels).tolist() for labels in maps.values())))
    legend = [(class_name(k, classes), tuple(table[k].tolist())) for k in shown if k != IGNORE]
    legend += [("wrong", WRONG)] if wrong_shown else []
    legend += [("ignored", IGNORED)] if IGNORE in shown else []
    return Drawing(rows, legend)


def caption(truth: np.ndarray, prediction: np.ndarray, classes: int) -> str:
    """Pixel accuracy and mean IoU of one prediction, on 0..100, over the classes in its ground truth.

    Of probabilities of being salient: structure measure and mean absolute error.
    """
    if is_saliency(prediction):
        figures = saliency_summary(measure(prediction, truth == 1)[None])
        return f"S {figures['S']:.1f}, MAE {figures['MAE']:.1f}"
    count = max(classes, *(1 + int(a[a != IGNORE].max(initial=0)) for a in (truth, prediction)))
    figures = summary(confusion(truth, prediction, count))
    return f"pixel accuracy {figures['pACC']:.1f}, mIoU {figures['mIoU']:.1f}"


def palette(colors: Sequence[RGB] = ()) -> np.ndarray:
    """The color of each label in pictures, (256, 3) uint8 RGB; 255 is gray.

    Args:
        colors: those of a release by class id. Further classes, and those of which the color is hard to tell
            from another's, get one of their own.
    """
    return np.array([*distinct(colors, IGNORE), IGNORED], np.uint8)


def overlay(image: np.ndarray, labels: np.ndarray, table: np.ndarray) -> np.ndarray:
    """The colors of `labels` (H, W) over `image` (H, W, 3), with light outlines inside; (H, W, 3) uint8."""
    kernel = np.ones((3, 3), np.uint8)
    edge = cv2.dilate(labels, kernel) != cv2.erode(labels, kernel)
    share = np.where(table.any(1), VEIL, 0).astype(np.float32)[labels][..., None]
    veil = image + share * (table[labels].astype(np.float32) - image)
    # Palettes are dark and so are scenes at night: an outline must be lighter than both to be seen.
    light = 255 - (255 - table[labels].astype(np.float32)) * EDGE
    return np.rint(np.where(edge[..., None] & (share > 0), light, veil)).astype(np.uint8)


def _errors(image: np.ndarray, wrong: np.ndarray, truth: np.ndarray) -> np.ndarray:
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None] * DIM
    picture = np.repeat(np.rint(gray).astype(np.uint8), 3, axis=2)
    picture[truth == IGNORE] = IGNORED
    picture[wrong.astype(bool)] = WRONG
    return picture


def _enlarge(labels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return cv2.resize(labels.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST_EXACT)
