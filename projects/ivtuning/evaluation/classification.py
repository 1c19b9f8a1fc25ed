"""Top-k accuracy of image classifiers."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import numpy as np
import torch
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm

from ..data.datasets.detection import metadata
from ..errors import UserError


class TopKEvaluator(DatasetEvaluator):
    """Accuracy on 0..100: an image is right at k if at most k - 1 classes score higher than its own.

    `evaluate()` returns ``{"classification": {"top1": ..., "top5": ..., "mean_class_accuracy": ...}}``, the
    last one being the mean of top-1 over the classes that occur. Of equal scores, the lower class goes first.
    A k beyond the number of classes gives 100.

    Args:
        dataset_name: a registered classification set.
        topk: the k to report, each at least 1.

    Raises:
        UserError: an unknown set, or another k.
    """

    def __init__(self, dataset_name: str, topk: Sequence[int] = (1, 5)):
        if not topk or min(topk) < 1:
            raise UserError(f"topk={list(topk)}: give numbers of guesses from 1, such as [1,5]")
        self.metadata, self.topk = metadata(dataset_name), tuple(topk)
        self.reset()

    def reset(self) -> None:
        self._seen: list[tuple[int, int]] = []  # label, classes ahead of it

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Keep the ranks of one batch; `inputs` have "label", `outputs` have "scores" (K,).

        Raises:
            UserError: scores that are not finite, or not as many as the set has classes.
        """
        scores = torch.stack([y["scores"] for y in outputs]).float().cpu()
        labels = torch.tensor([x["label"] for x in inputs])
        known = len(self.metadata.get("classes") or scores[0])
        if scores.shape[1] != known:
            raise UserError(
                f"the model has {scores.shape[1]} classes, {self.metadata.name} {known}: "
                f"set model.num_classes={known}"
            )
        if not scores.isfinite().all():
            # NaN compares false to everything: it would pass for the best score.
            bad = inputs[int((~scores.isfinite()).any(1).nonzero()[0])]
            raise UserError(
                f"scores of {bad.get('file_name', 'an image')} are not finite: look at the weights"
            )
        own = scores.gather(1, labels[:, None])
        before = torch.arange(known) < labels[:, None]
        ahead = ((scores > own) | ((scores == own) & before)).sum(1)
        self._seen += zip(labels.tolist(), ahead.tolist(), strict=True)

    def evaluate(self) -> dict:
        """Figures of everything processed on all ranks since `reset()`, on rank 0; ``{}`` on the others.

        Raises:
            UserError: nothing was processed.
        """
        comm.synchronize()
        gathered = comm.gather(self._seen, dst=0)
        if not comm.is_main_process():
            return {}
        seen = list(chain(*gathered))
        if not seen:
            raise UserError(f"no image of {self.metadata.name} was evaluated: look at dataloader.test")
        labels, ahead = np.array(seen).T
        figures = {f"top{k}": 100 * float((ahead < k).mean()) for k in self.topk}
        per_class = [(ahead[labels == c] == 0).mean() for c in np.unique(labels)]
        return {"classification": {**figures, "mean_class_accuracy": 100 * float(np.mean(per_class))}}
