"""Measures of salient object detection: MAE, S-measure, F-measures and E-measures of maps of probabilities.

Their definitions are those of the authors' MATLAB code, as PySODMetrics has them: a map is rounded to 256
levels, as in an image file, and stretched to 0..1 before it is measured.
"""

from __future__ import annotations

import numpy as np
from detectron2.utils.logger import create_small_table
from scipy.ndimage import correlate1d, distance_transform_edt
from torch import Tensor

from ..data.labels import read_labels
from ..errors import UserError
from .predictions import gather_on_main
from .semantic import PairSemSegEvaluator

LEVELS = 256
EPS = np.spacing(1)
BETA2 = 0.3  # weight of the recall in F-measures, squared (Achanta et al., CVPR 2009)
SINGLE = ("S", "MAE", "wF", "adpF", "adpE")
NAMES = (*SINGLE, "meanF", "maxF", "meanE", "maxE")


class SaliencyEvaluator(PairSemSegEvaluator):
    """The measures of salient object detection, on 0..100, beside the figures of label maps.

    `evaluate()` returns ``{"sem_seg": {...}, "saliency": {...}}``. The first are those of
    :class:`PairSemSegEvaluator`; the second are means over the images, in percent of what papers state:

    - ``S``: structure measure; ``MAE``: mean absolute error, of which lower is better; ``wF``: weighted
      F-measure;
    - ``meanF, maxF, meanE, maxE``: mean and largest value, over 256 thresholds, of the F-measure (with a
      beta^2 of 0.3) and of the enhanced alignment measure; ``adpF, adpE``: at twice the mean of each map.

    Pixels without a label count as background.
    """

    def __init__(self, dataset_name: str, output_dir: str | None = None, boundary: bool = False):
        """
        Args:
            dataset_name: a registered set of label maps with two classes, the second of which is salient.
            output_dir, boundary: as in :class:`PairSemSegEvaluator`.

        Raises:
            UserError: the set is not registered, or has other than two classes.
        """
        super().__init__(dataset_name, output_dir, boundary)
        if self._num_classes != 2:
            raise UserError(
                f"{dataset_name} has {self._num_classes} classes, but salient objects are the second of two: "
                "use the config of another task for it"
            )

    def metric_names(self) -> list[str]:
        """Names of the figures of :meth:`evaluate`, such as "saliency/S"."""
        return super().metric_names() + [f"saliency/{name}" for name in NAMES]

    def reset(self) -> None:
        """Forget all images."""
        super().reset()
        self._rows: list[np.ndarray] = []

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Measure one batch; see :meth:`PairSemSegEvaluator.process`."""
        super().process(inputs, outputs)
        for x, output in zip(inputs, outputs, strict=True):
            truth = read_labels(self._records[x["file_name"]]) == 1
            self._rows.append(measure(saliency(output["sem_seg"]), truth))

    def evaluate(self) -> dict:
        """Figures of everything processed on all ranks since `reset()`, on rank 0; ``{}`` on the others.

        Raises:
            UserError: nothing was processed.
        """
        gathered = gather_on_main(self._rows)
        results = super().evaluate()
        if gathered is None:
            return {}
        figures = summary(np.stack([row for rows in gathered for row in rows]))
        self._logger.info(f"salient objects of {self.dataset_name}:\n{create_small_table(figures)}")
        return results | {"saliency": figures}


def saliency(scores: Tensor) -> np.ndarray:
    """(H, W) float64 probabilities of the second class, from (2, H, W) logits or probabilities of both.

    Raises:
        UserError: scores of another number of classes.
    """
    if len(scores) != 2:
        raise UserError(
            f"the model has {len(scores)} classes, but salient objects are the second of two: set "
            "model.sem_seg_head.num_classes=2"
        )
    scores = scores.double()
    given = scores.min() >= 0 and bool(((scores.sum(0) - 1).abs() < 1e-3).all())
    return (scores if given else scores.softmax(0))[1].cpu().numpy()


def is_saliency(prediction: object) -> bool:
    """Whether a prediction is a map of probabilities of being salient, (H, W) of floating point."""
    return isinstance(prediction, np.ndarray) and prediction.dtype.kind == "f"


def labels_of(prediction: np.ndarray) -> np.ndarray:
    """The label map, (H, W) uint8, of a prediction that is one, or that has probabilities of being salient.

    The latter give 1 above 0.5, otherwise 0.
    """
    return (prediction > 0.5).astype(np.uint8) if is_saliency(prediction) else prediction


def gray_levels(probabilities: np.ndarray) -> np.ndarray:
    """The gray image of (H, W) probabilities, (H, W) uint8: 255 where they are 1."""
    return np.rint(probabilities * (LEVELS - 1)).astype(np.uint8)


def measure(probabilities: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """All measures of one image.

    Args:
        probabilities: (H, W) of being salient, 0..1.
        truth: (H, W) bool.

    Returns:
        (517,) float64 on 0..1: the 5 measures SINGLE, and the F-measure and the E-measure by threshold, the
        highest of the 256 first.
    """
    levels = gray_levels(probabilities) / (LEVELS - 1)
    low, high = levels.min(), levels.max()
    found = (levels - low) / (high - low) if high > low else levels
    f, e = _curves(found, truth)
    threshold = min(2 * found.mean(), 1.0)
    hits, alarms = (np.array([(found[part] >= threshold).sum()]) for part in (truth, ~truth))
    single = [
        structure(found, truth),
        np.abs(found - truth).mean(),
        weighted_f(found, truth),
        _f_measure(hits, alarms, truth)[0],
        _e_measure(hits, alarms, truth)[0],
    ]
    return np.concatenate([single, f, e])


def summary(rows: np.ndarray) -> dict[str, float]:
    """The figures of a set, on 0..100, from the (N, 517) rows of its images, see :func:`measure`."""
    means = rows.mean(0)
    f, e = means[len(SINGLE) :].reshape(2, LEVELS)
    values = [*means[: len(SINGLE)], f.mean(), f.max(), e.mean(), e.max()]
    return {name: 100 * float(value) for name, value in zip(NAMES, values, strict=True)}


def _curves(found: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """F-measure and E-measure, (256,) each, from each threshold on, the highest first."""
    levels = (found * (LEVELS - 1)).astype(np.uint8)
    hits, alarms = (np.bincount(levels[part], minlength=LEVELS)[::-1].cumsum() for part in (truth, ~truth))
    return _f_measure(hits, alarms, truth), _e_measure(hits, alarms, truth)


def _f_measure(hits: np.ndarray, alarms: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """F-measures from the numbers of salient and of other pixels that were found."""
    precision = hits / np.maximum(hits + alarms, 1)
    recall = hits / max(int(truth.sum()), 1)
    numerator = (1 + BETA2) * precision * recall
    return np.divide(numerator, BETA2 * precision + recall, out=np.zeros_like(numerator), where=numerator > 0)


def _e_measure(hits: np.ndarray, alarms: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Enhanced alignment (Fan et al., IJCAI 2018) from the same numbers.

    A pixel counts by how the prediction's and the truth's differences from their means agree. Both are
    binary, so there are four kinds of pixels.
    """
    size, salient = truth.size, int(truth.sum())
    found = hits + alarms
    if salient in (0, size):
        total = found if salient else size - found
    else:
        mean, share = found / size, salient / size
        total = np.zeros(len(found))
        for number, p, t in (
            (hits, 1, 1),
            (alarms, 1, 0),
            (salient - hits, 0, 1),
            (size - salient - alarms, 0, 0),
        ):
            a, b = p - mean, t - share
            total += number * (2 * a * b / (a * a + b * b + EPS) + 1) ** 2 / 4
    return total / (size - 1 + EPS)


def structure(found: np.ndarray, truth: np.ndarray) -> float:
    """S-measure (Fan et al., ICCV 2017): the mean of the similarities of objects and of regions.

    Args:
        found: (H, W) float64 in 0..1.
        truth: (H, W) bool.
    """
    share = truth.mean()
    if share in (0, 1):
        return float(found.mean() if share else 1 - found.mean())
    objects = share * _object_score(found[truth]) + (1 - share) * _object_score(1 - found[~truth])
    # The four regions meet at the centroid.
    y, x = (int(round(float(center))) + 1 for center in np.argwhere(truth).mean(0))
    regions = 0.0
    for rows in (slice(0, y), slice(y, None)):
        for columns in (slice(0, x), slice(x, None)):
            part = found[rows, columns]
            regions += part.size / truth.size * _similarity(part, truth[rows, columns])
    return max(0.0, 0.5 * objects + 0.5 * regions)


def _object_score(values: np.ndarray) -> float:
    """How high and how uniform the predictions of an object's pixels are."""
    mean = values.mean()
    spread = values.std(ddof=1) if values.size > 1 else 0.0
    return 2 * mean / (mean * mean + 1 + spread + EPS)


def _similarity(found: np.ndarray, truth: np.ndarray) -> float:
    """Structural similarity (SSIM) of one region, without its constants."""
    if not found.size:
        return 0.0
    x, y = found.mean(), truth.mean()
    dx, dy, n = found - x, truth - y, found.size - 1 + EPS
    above = 4 * x * y * (dx * dy).sum() / n
    below = (x * x + y * y) * ((dx * dx).sum() / n + (dy * dy).sum() / n)
    if above != 0:
        return above / (below + EPS)
    return 1.0 if below == 0 else 0.0


def weighted_f(found: np.ndarray, truth: np.ndarray) -> float:
    """Weighted F-measure (Margolin et al., CVPR 2014): errors count by their place; 0 without an object.

    Errors of other pixels are those of the nearest salient one. Errors inside an object are smoothed, and
    other pixels count up to twice with their distance from it.
    """
    if not truth.any():
        return 0.0
    distances, nearest = distance_transform_edt(~truth, return_indices=True)
    error = np.abs(found - truth)
    smooth = _gaussian(error[tuple(nearest)])
    least = np.where(truth & (smooth < error), smooth, error)
    weighted = np.where(truth, least, least * (2 - np.exp(np.log(0.5) / 5 * distances)))
    missed = weighted[truth]
    hits, alarms = truth.sum() - missed.sum(), weighted[~truth].sum()
    recall, precision = 1 - missed.mean(), hits / (hits + alarms + EPS)
    return float(2 * recall * precision / (recall + precision + EPS))


def _gaussian(values: np.ndarray, side: int = 7, sigma: float = 5.0) -> np.ndarray:
    """`values` smoothed by a Gaussian window; what lies outside counts as 0."""
    window = np.exp(-((np.arange(side) - side // 2) ** 2) / (2 * sigma**2))
    for axis in (0, 1):
        values = correlate1d(values, window / window.sum(), axis, mode="constant")
    return values
