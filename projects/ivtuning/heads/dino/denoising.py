"""Contrastive denoising (DINO, arXiv 2203.03605, section 3.3): queries made of the ground truth and noise."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ...errors import UserError
from .boxes import inverse_sigmoid, to_centers, to_corners
from .matcher import Matches
from .targets import Targets


class Denoising(NamedTuple):
    """D queries for every image, in groups of T positives and then T negatives; T objects at most.

    Fields:
        labels: (B, D) long, noised classes.
        boxes: (B, D, 4) float32, noised cx, cy, w, h before the sigmoid.
        real: (B, D) bool, False where an image has fewer than T objects.
        groups: number of groups.
        positives: of every positive query, its image, its place and its object; `layer` is 0.
    """

    labels: Tensor
    boxes: Tensor
    real: Tensor
    groups: int
    positives: Matches

    def blocked(self, queries: int) -> Tensor:
        """Who may not see whom, when `queries` matching queries follow the denoising ones.

        Matching queries, which must find objects unaided, see none of these; groups do not see each other.

        Returns:
            (D + queries, D + queries) bool, rows look at columns, True where that is not allowed.
        """
        count = self.labels.shape[1]
        group = torch.arange(count + queries, device=self.labels.device).clamp(max=count)
        group = group.div(count // self.groups, rounding_mode="floor")
        return (group[:, None] != group) & (group < self.groups)


class ContrastiveDenoising:
    """Makes the queries.

    Args:
        pairs: of a positive and a negative query for an image, about: groups = `pairs` / most objects in an
            image of the batch, at least 1.
        label_noise: twice the share of classes that are drawn anew, 0..1.
        box_noise: how far a corner of a positive moves at most, in half sides; negatives move by once to
            twice as much.

    Raises:
        UserError: `pairs` below 1, or noise below 0.
    """

    def __init__(self, pairs: int = 100, label_noise: float = 0.5, box_noise: float = 1.0):
        if pairs < 1 or not 0 <= label_noise <= 1 or box_noise < 0:
            raise UserError(
                f"denoising with pairs={pairs}, label_noise={label_noise}, box_noise={box_noise}: "
                "give at least 1 pair, label noise in 0..1 and box noise from 0"
            )
        self.pairs, self.label_noise, self.box_noise = pairs, label_noise, box_noise

    @torch.no_grad()
    def __call__(self, targets: Targets, num_classes: int) -> Denoising | None:
        """None where the batch has no object."""
        most = max(targets.sizes)
        if not most:
            return None
        groups = max(1, self.pairs // most)
        device, count = targets.labels.device, len(targets.labels)
        # All below is (groups, 2, N): positives and negatives of every object.
        labels = self._labels(targets.labels.expand(groups, 2, count), num_classes)
        boxes = self._boxes(targets.boxes.expand(groups, 2, count, 4))
        place = torch.cat([torch.arange(size) for size in targets.sizes]).to(device)
        row = torch.arange(2 * groups, device=device).view(groups, 2, 1)
        place = place + most * row
        image = targets.image.expand_as(place)

        shape = (len(targets.sizes), 2 * groups * most)
        all_labels = labels.new_zeros(shape)
        all_boxes = boxes.new_zeros(*shape, 4)
        real = torch.zeros(shape, dtype=torch.bool, device=device)
        all_labels[image, place], all_boxes[image, place], real[image, place] = labels, boxes, True
        target = torch.arange(count, device=device).expand(groups, count)
        positives = [image[:, 0], place[:, 0], target]
        return Denoising(
            all_labels,
            all_boxes,
            real,
            groups,
            Matches(torch.zeros_like(target).flatten(), *(p.flatten() for p in positives)),
        )

    def _labels(self, labels: Tensor, num_classes: int) -> Tensor:
        swap = torch.rand(labels.shape, device=labels.device) < self.label_noise / 2
        return torch.where(swap, torch.randint_like(labels, num_classes), labels)

    def _boxes(self, boxes: Tensor) -> Tensor:
        half = boxes[..., 2:].repeat(1, 1, 1, 2) / 2
        distance = torch.rand_like(half)
        distance[:, 1] += 1
        sign = torch.randint_like(half, 2) * 2 - 1
        corners = to_corners(boxes) + sign * distance * half * self.box_noise
        return inverse_sigmoid(to_centers(corners.clamp(0, 1)))
