"""Co-DINO's losses: DINO's, with scores that learn to tell how well the box fits."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..dino.boxes import iou
from ..dino.criterion import Criterion
from ..dino.decoder import Predictions
from ..dino.matcher import Matches
from ..dino.targets import Targets
from .positives import Positives


class QualityCriterion(Criterion):
    """:class:`..dino.Criterion` with the quality focal loss (arXiv 2006.04388, section 3.2, beta 2)."""

    @staticmethod
    def class_loss(logits: Tensor, positive: tuple[Tensor, ...], found: Tensor, true: Tensor) -> Tensor:
        """See :meth:`..dino.Criterion.class_loss`; a positive score should be the IoU of box and object."""
        wanted = torch.zeros_like(logits)
        wanted[positive] = iou(found.detach(), true)
        entropy = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
        return entropy * (wanted - logits.sigmoid()).square()

    def customised(self, predictions: Predictions, positives: Positives) -> Tensor:
        """Losses of one head's customised positive queries, whose objects are known (section 3.3).

        Returns:
            (3,) class, L1 and GIoU loss, sums over all layers, not weighted, divided by the number of queries
            with an object (mean over the processes, at least 1).
        """
        classes = predictions.logits.shape[-1]
        image, query = place = (positives.labels < classes).nonzero(as_tuple=True)
        targets = Targets(positives.labels[place], positives.objects[place], image, [])
        first = torch.zeros_like(image)
        matches = Matches(first, image, query, torch.arange(len(image), device=image.device))
        matches = self.every_layer(matches, len(predictions.logits))
        return self.losses(predictions, matches, targets, self.count(targets)).sum(1)
