"""A prediction drawn on one image, which keeps its size."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from detectron2.structures import Instances
from PIL import Image, ImageDraw
from torch import Tensor

from ..data.labels import IGNORE
from ..errors import UserError
from ..evaluation.saliency import labels_of
from .boxes import draw_label, draw_objects, from_instances
from .label_maps import overlay, palette
from .panels import RGB, caption_font, class_name, color


def draw_on_image(
    image: np.ndarray,
    prediction: Instances | np.ndarray | Tensor,
    classes: Sequence[str] = (),
    colors: Sequence[RGB] = (),
    threshold: float = 0.0,
) -> np.ndarray:
    """Draw boxes and masks, a label map with its legend, or the most probable class.

    Args:
        image: (H, W, 3) uint8 RGB.
        prediction: `Instances` in pixels of the image, class ids (H, W) uint8, probabilities (H, W) of being
            salient, which are drawn as a label map, or probabilities (K,).
        classes, colors: names and RGB of label maps' classes, by class id.
        threshold: least score of a drawn box.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        UserError: the prediction is that of an image of another size.
    """
    size = getattr(prediction, "image_size", image.shape[:2])
    size = prediction.shape if isinstance(prediction, np.ndarray) else size
    if tuple(size) != image.shape[:2]:
        raise UserError(
            f"the prediction is for {size[1]}x{size[0]} pixels, but the image has {image.shape[1]}x"
            f"{image.shape[0]}: draw it on its own image"
        )
    font = caption_font(image.shape[1])
    if isinstance(prediction, Instances):
        objects = from_instances(prediction, threshold)
        return np.asarray(draw_objects(Image.fromarray(image), objects, classes, 1, font))
    if isinstance(prediction, np.ndarray):
        labels, table = labels_of(prediction), palette(colors)
        image = overlay(image, labels, table)
        shown = [int(k) for k in np.unique(labels) if k != IGNORE]
        legend = [(class_name(k, classes), tuple(table[k].tolist())) for k in shown]
    else:
        best = int(prediction.argmax())
        legend = [(f"{class_name(best, classes)} {float(prediction[best]):.2f}", color(best))]
    picture = Image.fromarray(image)
    pen, taken = ImageDraw.Draw(picture), []
    for text, rgb in legend:
        below = taken[-1][3] if taken else 0
        draw_label(pen, (0, below, 0, below), text, rgb, font, picture.size, taken)
    return np.asarray(picture)
