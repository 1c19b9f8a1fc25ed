"""DINO's losses: focal, L1 and generalized IoU, for every layer and every kind of query."""

from __future__ import annotations

import torch
import torch.distributed as dist
from detectron2.utils import comm
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss

from ...utils.precision import at_least_float32
from .boxes import generalized_iou, to_corners
from .decoder import Predictions
from .denoising import Denoising
from .matcher import HungarianMatcher, Matches
from .targets import Targets

NAMES = ("loss_class", "loss_bbox", "loss_giou")


def mean_over_processes(values: Tensor) -> Tensor:
    """`values` themselves where there is but one process."""
    if (world := comm.get_world_size()) > 1:
        dist.all_reduce(values)
        values = values / world
    return values


class Criterion:
    """Sums of losses, divided by the number of objects (mean over the processes, at least 1).

    Args:
        matcher: assigns objects to the matching queries, anew for every layer.
        class_weight: of the focal loss (alpha 0.25, gamma 2) over all queries and classes.
        box_weight: of the L1 distance of matched boxes, cx, cy, w, h.
        giou_weight: of 1 - generalized IoU of matched boxes.
    """

    def __init__(
        self,
        matcher: HungarianMatcher | None = None,
        class_weight: float = 1.0,
        box_weight: float = 5.0,
        giou_weight: float = 2.0,
    ):
        self.matcher = matcher or HungarianMatcher()
        self.weights = (class_weight, box_weight, giou_weight)

    def __call__(
        self, decoder: Predictions, encoder: Predictions, targets: Targets, denoising: Denoising | None
    ) -> dict[str, Tensor]:
        """
        Args:
            decoder: of L layers, the denoising queries first.
            encoder: of one layer, the selected places.

        Returns:
            Weighted losses, "loss_class", "loss_bbox" and "loss_giou" of the last layer. The same with
            "_aux" are the sums over the layers before it, with "_enc" the encoder's, with "_dn" the sums
            over all layers of the denoising queries (0 without any).
        """
        count = self.count(targets)
        first = denoising.labels.shape[1] if denoising else 0
        # One matching, and one loss, for all layers and the encoder.
        matching = Predictions(
            torch.cat([decoder.logits[:, :, first:], encoder.logits]),
            torch.cat([decoder.boxes[:, :, first:], encoder.boxes]),
        )
        found = self.losses(matching, self.matcher(*matching, targets), targets, count)
        losses = {"": found[:, -2], "_aux": found[:, :-2].sum(1), "_enc": found[:, -1]}
        if denoising is None:
            losses["_dn"] = found.new_zeros(3)
        else:
            known = Predictions(decoder.logits[:, :, :first], decoder.boxes[:, :, :first])
            matches = self.every_layer(denoising.positives, len(known.logits))
            losses["_dn"] = self.losses(known, matches, targets, count * denoising.groups).sum(1)
        return self.weighted(losses)

    def weighted(self, losses: dict[str, Tensor]) -> dict[str, Tensor]:
        """{part: (3,)} -> {name + part: weighted loss}."""
        return {
            name + part: weight * value
            for part, values in losses.items()
            for name, weight, value in zip(NAMES, self.weights, values, strict=True)
        }

    @staticmethod
    def count(targets: Targets) -> Tensor:
        """Objects in this process's batch, as a mean over all processes, at least 1."""
        count = torch.tensor(float(len(targets.labels)), device=targets.labels.device)
        return mean_over_processes(count).clamp(min=1)

    @staticmethod
    def every_layer(matches: Matches, layers: int) -> Matches:
        """The matches of one layer, for each of `layers`."""
        layer = torch.arange(layers, device=matches.layer.device).repeat_interleave(len(matches.layer))
        return Matches(layer, *(index.repeat(layers) for index in matches[1:]))

    @classmethod
    def losses(cls, predictions: Predictions, matches: Matches, targets: Targets, count: Tensor) -> Tensor:
        """(3, L): class, L1 and GIoU loss of every layer, not weighted, divided by `count`."""
        logits, boxes = (at_least_float32(tensor) for tensor in predictions)
        layer, image, query, target = matches
        found, true = boxes[layer, image, query], targets.boxes[target]
        corners = to_corners(found), to_corners(true)
        positive = layer, image, query, targets.labels[target]
        by_class = cls.class_loss(logits, positive, *corners).sum((1, 2, 3))
        by_box = torch.stack([(found - true).abs().sum(1), 1 - generalized_iou(*corners)])
        by_box = by_box.new_zeros(2, len(logits)).index_add(1, layer, by_box)
        return torch.cat([by_class[None], by_box]) / count

    @staticmethod
    def class_loss(logits: Tensor, positive: tuple[Tensor, ...], found: Tensor, true: Tensor) -> Tensor:
        """Focal loss of every score.

        Args:
            logits: (L, B, Q, K).
            positive: indices of the N scores that should be high.
            found, true: (N, 4) their queries' boxes and objects, x1, y1, x2, y2.

        Returns:
            (L, B, Q, K).
        """
        wanted = torch.zeros_like(logits)
        wanted[positive] = 1
        return sigmoid_focal_loss(logits, wanted)
