"""Accuracy of image classifiers: top-k, of each class, and by time of day."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from itertools import chain

import numpy as np
import torch
from detectron2.evaluation import DatasetEvaluator
from tabulate import tabulate

from ..data.catalog import metadata
from ..data.modalities import TIMES
from ..errors import UserError
from .predictions import gather_on_main

logger = logging.getLogger("ivtuning")


class TopKEvaluator(DatasetEvaluator):
    """Accuracy on 0..100: an image is correct at k if at most k - 1 classes score higher than its own.

    `evaluate()` returns ``{"classification": {...}}`` with

    - ``top1, top5``, or others of `topk`;
    - ``balanced_accuracy``: the mean over the classes that occur of their top-1;
    - ``top1-day, balanced_accuracy-day`` and so on, by night as well, where the images carry "time";
    - ``accuracy-<class>``: top-1 of each class, NaN where no image has it, if the set names its classes.

    Of equal scores, that of the lower class counts as higher. A k above the number of classes gives 100.

    Args:
        dataset_name: a registered classification set.
        topk: values of k to report, each at least 1.

    Raises:
        UserError: an unknown set, one of another kind, or a k below 1.
    """

    def __init__(self, dataset_name: str, topk: Sequence[int] = (1, 5)):
        if not topk or min(topk) < 1:
            raise UserError(f"topk={list(topk)}: give numbers of guesses from 1, such as [1,5]")
        self.metadata, self.topk = metadata(dataset_name), tuple(topk)
        if self.metadata.get("evaluator_type") not in (None, "classification"):
            raise UserError(f"{dataset_name} is no classification set: use the config of another task for it")
        self.reset()

    def metric_names(self) -> list[str]:
        """Names of the figures of :meth:`evaluate`, such as "classification/top1"."""
        means = [*(f"top{k}" for k in self.topk), "balanced_accuracy"]
        names = [*means, *(f"{name}-{time}" for time in self.metadata.get("times", ()) for name in means)]
        names += [f"accuracy-{name}" for name in self.metadata.get("classes") or ()]
        return [f"classification/{name}" for name in names]

    def reset(self) -> None:
        """Forget all images."""
        # Of each image: its label, the number of classes that score higher, and its time's index or -1.
        self._ranks: list[tuple[int, int, int]] = []

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Rank the labels of one batch; `inputs` have "label", `outputs` have "scores" (K,).

        Raises:
            UserError: scores that are not finite, or another number of scores than the set has classes.
        """
        scores = torch.stack([output["scores"] for output in outputs]).float().cpu()
        labels = torch.tensor([x["label"] for x in inputs])
        num_classes = len(self.metadata.get("classes") or scores[0])
        if scores.shape[1] != num_classes:
            raise UserError(
                f"the model has {scores.shape[1]} classes, {self.metadata.name} {num_classes}: "
                f"set model.num_classes={num_classes}"
            )
        if not scores.isfinite().all():
            # NaN compares as false with everything, so it would count as the best score.
            first = inputs[int((~scores.isfinite()).any(1).nonzero()[0])]
            raise UserError(
                f"scores of {first.get('file_name', 'an image')} are not finite: check the weights"
            )
        own = scores.gather(1, labels[:, None])
        before = torch.arange(num_classes) < labels[:, None]
        ahead = ((scores > own) | ((scores == own) & before)).sum(1)
        times = [TIMES.index(x["time"]) if x.get("time") in TIMES else -1 for x in inputs]
        self._ranks += zip(labels.tolist(), ahead.tolist(), times, strict=True)

    def evaluate(self) -> dict:
        """Figures of everything processed on all ranks since `reset()`, on rank 0; ``{}`` on the others.

        Raises:
            UserError: nothing was processed.
        """
        gathered = gather_on_main(self._ranks)
        if gathered is None:
            return {}
        ranks = np.array(list(chain(*gathered))).reshape(-1, 3)
        if not len(ranks):
            raise UserError(f"no image of {self.metadata.name} was evaluated: check dataloader.test")
        parts = {"all": ranks}
        for i, time in enumerate(TIMES):
            if time in self.metadata.get("times", ()) or (ranks[:, 2] == i).any():
                parts[time] = ranks[ranks[:, 2] == i]
        means = {part: self._means(rows) for part, rows in parts.items()}
        figures = dict(means["all"])
        for time in list(parts)[1:]:
            figures |= {f"{name}-{time}": value for name, value in means[time].items()}
        classes = list(self.metadata.get("classes") or ())
        columns = {part: [_accuracy(rows, c) for c in range(len(classes))] for part, rows in parts.items()}
        figures |= {f"accuracy-{c}": value for c, value in zip(classes, columns["all"], strict=True)}
        self._log(parts, means, classes, columns)
        return {"classification": figures}

    def _means(self, ranks: np.ndarray) -> dict[str, float]:
        """The figures of some images that are means over images or over classes; NaN without images."""
        if not len(ranks):
            return dict.fromkeys([*(f"top{k}" for k in self.topk), "balanced_accuracy"], math.nan)
        figures = {f"top{k}": 100 * float((ranks[:, 1] < k).mean()) for k in self.topk}
        per_class = [_accuracy(ranks, c) for c in np.unique(ranks[:, 0])]
        return figures | {"balanced_accuracy": float(np.mean(per_class))}

    def _log(self, parts: dict, means: dict, classes: Sequence[str], columns: dict) -> None:
        """Log a table of the whole set and its parts, and one of the classes."""
        table = [[part, len(rows), *means[part].values()] for part, rows in parts.items()]
        text = tabulate(table, ["part", "images", *means["all"]], tablefmt="pipe", floatfmt=".2f")
        if classes:
            numbers = np.bincount(parts["all"][:, 0], minlength=len(classes)).tolist()
            table = [list(row) for row in zip(classes, numbers, *columns.values(), strict=True)]
            headers = ["class", "images", *("accuracy" if p == "all" else f"by {p}" for p in parts)]
            text += "\n\n" + tabulate(table, headers, tablefmt="pipe", floatfmt=".2f")
        logger.info("classification on %s:\n%s", self.metadata.name, text)


def _accuracy(ranks: np.ndarray, label: int) -> float:
    """The share in percent of a class's images whose best guess is right; NaN without images."""
    own = ranks[ranks[:, 0] == label]
    return 100 * float((own[:, 1] == 0).mean()) if len(own) else math.nan
