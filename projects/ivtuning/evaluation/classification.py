"""Top-k accuracy of image classifiers."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import numpy as np
import torch
from detectron2.evaluation import DatasetEvaluator

from ..data.catalog import metadata
from ..errors import UserError
from .predictions import gather_on_main


class TopKEvaluator(DatasetEvaluator):
    """Accuracy on 0..100: an image is correct at k if at most k - 1 classes score higher than its own.

    `evaluate()` returns ``{"classification": {"top1": ..., "top5": ..., "mean_class_accuracy": ...}}``, the
    last of which is the mean over the classes that occur of their top-1. Of equal scores, that of the lower
    class counts as higher. A k above the number of classes gives 100.

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
        return [f"classification/{name}" for name in (*(f"top{k}" for k in self.topk), "mean_class_accuracy")]

    def reset(self) -> None:
        """Forget all images."""
        self._ranks: list[tuple[int, int]] = []  # label, number of classes that score higher

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
        self._ranks += zip(labels.tolist(), ahead.tolist(), strict=True)

    def evaluate(self) -> dict:
        """Figures of everything processed on all ranks since `reset()`, on rank 0; ``{}`` on the others.

        Raises:
            UserError: nothing was processed.
        """
        gathered = gather_on_main(self._ranks)
        if gathered is None:
            return {}
        ranks = list(chain(*gathered))
        if not ranks:
            raise UserError(f"no image of {self.metadata.name} was evaluated: check dataloader.test")
        labels, ahead = np.array(ranks).T
        figures = {f"top{k}": 100 * float((ahead < k).mean()) for k in self.topk}
        per_class = [(ahead[labels == c] == 0).mean() for c in np.unique(labels)]
        return {"classification": {**figures, "mean_class_accuracy": 100 * float(np.mean(per_class))}}
