"""Co-DINO's losses: DINO's, but a score learns how well its box fits."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..dino.boxes import iou
from ..dino.criterion import Criterion
from ..dino.decoder import Predictions
from ..dino.matcher import Matches
from ..dino.targets import Targets
from .positives import PositiveQueries


class QualityCriterion(Criterion):
    """:class:`..dino.Criterion` with the quality focal loss (arXiv 2006.04388, section 3.2, beta 2)."""

    @staticmethod
    def class_loss(
        logits: Tensor, positive: tuple[Tensor, ...], matched_boxes: Tensor, target_boxes: Tensor
    ) -> Tensor:
        """As :meth:`..dino.Criterion.class_loss`, but the target of a positive score is the boxes' IoU."""
        target_scores = torch.zeros_like(logits)
        target_scores[positive] = iou(matched_boxes.detach(), target_boxes)
        entropy = F.binary_cross_entropy_with_logits(logits, target_scores, reduction="none")
        return entropy * (target_scores - logits.sigmoid()).square()

    def customized_losses(self, predictions: Predictions, positives: PositiveQueries) -> Tensor:
        """Losses of one head's customized positive queries, whose objects are known (section 3.3).

        Returns:
            (3,) class, L1 and GIoU loss, summed over all layers, without weights, divided by the number of
            queries with an object (its mean over the processes, at least 1).
        """
        num_classes = predictions.logits.shape[-1]
        image, query = index = (positives.labels < num_classes).nonzero(as_tuple=True)
        targets = Targets(positives.labels[index], positives.objects[index], image, [])
        target = torch.arange(len(image), device=image.device)
        matches = Matches(torch.zeros_like(image), image, query, target)
        matches = self.repeat_over_layers(matches, len(predictions.logits))
        return self.losses(predictions, matches, targets, self.num_boxes(targets)).sum(1)
