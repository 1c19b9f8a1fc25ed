"""DINO's losses: focal, L1 and generalized IoU, for every layer and every kind of query."""

from __future__ import annotations

import torch
import torch.distributed as dist
from detectron2.utils import comm
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss

from ...tuning.options import need_number
from ...utils.precision import at_least_float32
from .boxes import generalized_iou, to_corners
from .decoder import Predictions
from .denoising import Denoising
from .matcher import HungarianMatcher, Matches
from .targets import Targets

NAMES = ("loss_class", "loss_bbox", "loss_giou")


def mean_over_processes(values: Tensor) -> Tensor:
    """The mean of `values` over all processes; `values` themselves where there is only one."""
    if (world_size := comm.get_world_size()) > 1:
        dist.all_reduce(values)
        values = values / world_size
    return values


class Criterion:
    """Losses of matching and denoising queries.

    All are sums divided by the number of objects (its mean over the processes, at least 1).

    Args:
        matcher: assigns objects to the matching queries, for every layer anew.
        class_weight: weight of the focal loss (alpha 0.25, gamma 2) over all queries and classes.
        box_weight: weight of the L1 distance of matched boxes, cx, cy, w, h.
        giou_weight: weight of 1 - generalized IoU of matched boxes.

    Raises:
        UserError: a weight that is not a number from 0.
    """

    def __init__(
        self,
        matcher: HungarianMatcher | None = None,
        class_weight: float = 1.0,
        box_weight: float = 5.0,
        giou_weight: float = 2.0,
    ):
        weights = dict(class_weight=class_weight, box_weight=box_weight, giou_weight=giou_weight)
        for name, weight in weights.items():
            need_number(f"model.criterion.{name}", weight, least=0)
        self.matcher = matcher or HungarianMatcher()
        self.weights = (class_weight, box_weight, giou_weight)

    def __call__(
        self, decoder: Predictions, encoder: Predictions, targets: Targets, denoising: Denoising | None
    ) -> dict[str, Tensor]:
        """
        Args:
            decoder: predictions of L layers, the denoising queries first.
            encoder: predictions of one layer, at the selected positions.

        Returns:
            Weighted losses, "loss_class", "loss_bbox" and "loss_giou" of the last layer. The same with
            "_aux" are the sums over the layers before it, with "_enc" the encoder's, with "_dn" the sums
            over all layers of the denoising queries (0 without any).
        """
        num_boxes = self.num_boxes(targets)
        num_denoising = denoising.labels.shape[1] if denoising else 0
        # One matching, and one loss, for all layers and the encoder.
        matching = Predictions(
            torch.cat([decoder.logits[:, :, num_denoising:], encoder.logits]),
            torch.cat([decoder.boxes[:, :, num_denoising:], encoder.boxes]),
        )
        by_layer = self.losses(matching, self.matcher(*matching, targets), targets, num_boxes)
        losses = {"": by_layer[:, -2], "_aux": by_layer[:, :-2].sum(1), "_enc": by_layer[:, -1]}
        if denoising is None:
            losses["_dn"] = by_layer.new_zeros(3)
        else:
            denoised = Predictions(decoder.logits[:, :, :num_denoising], decoder.boxes[:, :, :num_denoising])
            matches = self.repeat_over_layers(denoising.positives, len(denoised.logits))
            by_layer = self.losses(denoised, matches, targets, num_boxes * denoising.num_groups)
            losses["_dn"] = by_layer.sum(1)
        return self.weighted(losses)

    def weighted(self, losses: dict[str, Tensor]) -> dict[str, Tensor]:
        """Turn {suffix: (3,) losses} into {name + suffix: weighted loss}."""
        return {
            name + suffix: weight * value
            for suffix, values in losses.items()
            for name, weight, value in zip(NAMES, self.weights, values, strict=True)
        }

    @staticmethod
    def num_boxes(targets: Targets) -> Tensor:
        """Number of objects in this process's batch, as a mean over all processes, at least 1."""
        count = torch.full((), float(len(targets.labels)), device=targets.labels.device)
        return mean_over_processes(count).clamp(min=1)

    @staticmethod
    def repeat_over_layers(matches: Matches, num_layers: int) -> Matches:
        """The matches of one layer, for each of `num_layers`."""
        layer = torch.arange(num_layers, device=matches.layer.device).repeat_interleave(len(matches.layer))
        return Matches(layer, *(index.repeat(num_layers) for index in matches[1:]))

    @classmethod
    def losses(
        cls, predictions: Predictions, matches: Matches, targets: Targets, num_boxes: Tensor
    ) -> Tensor:
        """(3, L): class, L1 and GIoU loss of every layer, without weights, divided by `num_boxes`."""
        logits, boxes = (at_least_float32(tensor) for tensor in predictions)
        layer, image, query, target = matches
        matched_boxes, target_boxes = boxes[layer, image, query], targets.boxes[target]
        corners = to_corners(matched_boxes), to_corners(target_boxes)
        positive = layer, image, query, targets.labels[target]
        class_loss = cls.class_loss(logits, positive, *corners).sum((1, 2, 3))
        l1_loss = (matched_boxes - target_boxes).abs().sum(1)
        box_losses = torch.stack([l1_loss, 1 - generalized_iou(*corners)])
        box_losses = box_losses.new_zeros(2, len(logits)).index_add(1, layer, box_losses)
        return torch.cat([class_loss[None], box_losses]) / num_boxes

    @staticmethod
    def class_loss(
        logits: Tensor, positive: tuple[Tensor, ...], matched_boxes: Tensor, target_boxes: Tensor
    ) -> Tensor:
        """Focal loss of every score.

        Args:
            logits: (L, B, Q, K).
            positive: indices of the N scores that should be high.
            matched_boxes, target_boxes: (N, 4), the boxes of their queries and objects, x1, y1, x2, y2.

        Returns:
            (L, B, Q, K).
        """
        target_scores = torch.zeros_like(logits)
        target_scores[positive] = 1
        return sigmoid_focal_loss(logits, target_scores)
