"""Confusion matrices of label maps, and the figures computed from them."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor

from ..data.labels import IGNORE
from ..errors import UserError

BAND = 0.02  # width of a class's boundary, of the image's diagonal


def confusion(truth: np.ndarray, prediction: np.ndarray, classes: int) -> np.ndarray:
    """Confusion matrix (K, K) int64 of pixels; rows: ground truth, columns: prediction.

    Args:
        truth: (H, W) uint8, below `classes`, or 255 for ignored pixels.
        prediction: (H, W) uint8, below `classes`.
    """
    index = np.minimum(truth, classes).astype(np.intp) * classes + prediction
    counts = np.bincount(index.ravel(), minlength=(classes + 1) * classes)
    return counts.reshape(classes + 1, classes)[:-1]


def per_class(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """IoU and accuracy of each class, (K,) float64 on 0..100, NaN without ground truth."""
    hits, truth, predicted = matrix.diagonal(), matrix.sum(1), matrix.sum(0)
    union = np.where(truth > 0, truth + predicted - hits, 0)
    return 100 * ratio(hits, union), 100 * ratio(hits, truth)


def summary(matrix: np.ndarray) -> dict[str, float]:
    """mIoU, fwIoU, mACC and pACC on 0..100 of a confusion matrix (K, K); NaN where it is empty."""
    iou, acc = per_class(matrix)
    truth, shown = matrix.sum(1), ~np.isnan(iou)
    total = truth.sum()
    return {
        "mIoU": mean(iou),
        "fwIoU": float(ratio((iou * truth)[shown].sum(), total)),
        "mACC": mean(acc),
        "pACC": float(100 * ratio(matrix.trace(), total)),
    }


def boundary_counts(truth: np.ndarray, prediction: np.ndarray, classes: int) -> np.ndarray:
    """Intersection and union, (2, K) int64 pixels, of the boundary bands of each class.

    This is Boundary IoU (arXiv 2103.16562) with all pixels of a class in an image as one mask. A band is the
    part of the mask that is closer to its outline, or to the image's border, than BAND times the image's
    diagonal. Ignored pixels are cut out of both maps, so their outlines agree.
    """
    reach = max(1, round(BAND * math.hypot(*truth.shape)))
    kernel = np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)
    prediction = np.where(truth == IGNORE, IGNORE, prediction)
    counts = np.zeros((2, classes), np.int64)
    for k in np.union1d(truth, prediction):
        if k != IGNORE:
            masks = [(labels == k).astype(np.uint8) for labels in (truth, prediction)]
            cores = [cv2.erode(m, kernel, borderType=cv2.BORDER_CONSTANT, borderValue=0) for m in masks]
            a, b = (mask > core for mask, core in zip(masks, cores, strict=True))
            counts[:, k] = (a & b).sum(), (a | b).sum()
    return counts


def ratio(part: ArrayLike, whole: ArrayLike) -> np.ndarray:
    """`part` / `whole` in float64; NaN where `whole` is 0."""
    part, whole = np.broadcast_arrays(np.asarray(part, float), np.asarray(whole, float))
    return np.divide(part, whole, out=np.full(part.shape, math.nan), where=whole > 0)


def mean(values: np.ndarray) -> float:
    """Mean of the values that are not NaN; NaN without any."""
    values = values[~np.isnan(values)]
    return float(values.mean()) if values.size else math.nan


def label_map(scores: Tensor, name: str) -> np.ndarray:
    """The class of each pixel, (H, W) uint8, from scores (K, H, W) on any device.

    The highest score wins; a single output that stands for two classes is not supported.

    Raises:
        UserError: a score of the image `name` is not finite.
    """
    best, labels = scores.detach().max(0)
    # NaN counts as the highest score.
    if not best.isfinite().all():
        raise UserError(f"scores of {name} are not finite: check the weights")
    return labels.byte().cpu().numpy()
