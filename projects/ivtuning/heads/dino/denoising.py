"""Contrastive denoising (DINO, arXiv 2203.03605, section 3.3): queries made from noisy ground truth."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ...errors import UserError
from .boxes import inverse_sigmoid, to_centers, to_corners
from .matcher import Matches
from .targets import Targets


class Denoising(NamedTuple):
    """D denoising queries for every image.

    They come in groups of T positives and then T negatives, T being the largest number of objects in an image
    of the batch. Images with fewer objects have unused queries in every group.

    Fields:
        labels: (B, D) long, classes with noise.
        boxes: (B, D, 4) float32, cx, cy, w, h with noise, before the sigmoid.
        valid: (B, D) bool, False for unused queries.
        num_groups: number of groups.
        positives: image, query and object of every positive query; `layer` is 0.
    """

    labels: Tensor
    boxes: Tensor
    valid: Tensor
    num_groups: int
    positives: Matches

    def attn_mask(self, num_queries: int) -> Tensor:
        """Attention mask when `num_queries` matching queries follow the denoising ones.

        Matching queries must find objects unaided, so they attend to no denoising query. Neither do the
        denoising queries of other groups.

        Returns:
            (D + `num_queries`, D + `num_queries`) bool, True where a query (row) must not attend.
        """
        count = self.labels.shape[1]
        group = torch.arange(count + num_queries, device=self.labels.device).clamp(max=count)
        group = group.div(count // self.num_groups, rounding_mode="floor")
        return (group[:, None] != group) & (group < self.num_groups)


class ContrastiveDenoising:
    """Makes denoising queries.

    Args:
        num_dn_queries: about how many positive queries an image gets, and as many negative ones. The number
            of groups is `num_dn_queries` / T, at least 1.
        label_noise_ratio: twice the share of classes that are drawn anew, 0..1.
        box_noise_scale: how far the corners of a positive query move at most, in half sides; those of a
            negative move by once to twice as much.

    Raises:
        UserError: `num_dn_queries` below 1, or noise out of range.
    """

    def __init__(
        self, num_dn_queries: int = 100, label_noise_ratio: float = 0.5, box_noise_scale: float = 1.0
    ):
        in_range = 0 <= label_noise_ratio <= 1 and 0 <= box_noise_scale < math.inf  # NaN is in none
        if not num_dn_queries >= 1 or not in_range:
            raise UserError(
                f"denoising with num_dn_queries={num_dn_queries}, label_noise_ratio={label_noise_ratio}, "
                f"box_noise_scale={box_noise_scale}: give at least 1 query, a label noise ratio in 0..1 "
                "and a box noise scale from 0"
            )
        self.num_dn_queries = num_dn_queries
        self.label_noise_ratio, self.box_noise_scale = label_noise_ratio, box_noise_scale

    @torch.no_grad()
    def __call__(self, targets: Targets, num_classes: int) -> Denoising | None:
        """The queries for a batch; None where it has no objects."""
        most = max(targets.counts)
        if not most:
            return None
        num_groups = max(1, self.num_dn_queries // most)
        device, count = targets.labels.device, len(targets.labels)
        # Shapes are (num_groups, 2, N) from here on: a positive and a negative for each object in each group.
        labels = self._noisy_labels(targets.labels.expand(num_groups, 2, count), num_classes)
        boxes = self._noisy_boxes(targets.boxes.expand(num_groups, 2, count, 4))
        query = torch.cat([torch.arange(n) for n in targets.counts]).to(device)
        row = torch.arange(2 * num_groups, device=device).view(num_groups, 2, 1)
        query = query + most * row
        image = targets.image.expand_as(query)

        shape = (len(targets.counts), 2 * num_groups * most)
        all_labels = labels.new_zeros(shape)
        all_boxes = boxes.new_zeros(*shape, 4)
        valid = torch.zeros(shape, dtype=torch.bool, device=device)
        all_labels[image, query], all_boxes[image, query], valid[image, query] = labels, boxes, True
        target = torch.arange(count, device=device).expand(num_groups, count)
        indices = [torch.zeros_like(target), image[:, 0], query[:, 0], target]
        return Denoising(
            all_labels, all_boxes, valid, num_groups, Matches(*(index.flatten() for index in indices))
        )

    def _noisy_labels(self, labels: Tensor, num_classes: int) -> Tensor:
        swap = torch.rand(labels.shape, device=labels.device) < self.label_noise_ratio / 2
        return torch.where(swap, torch.randint_like(labels, num_classes), labels)

    def _noisy_boxes(self, boxes: Tensor) -> Tensor:
        half = boxes[..., 2:].repeat(1, 1, 1, 2) / 2
        distance = torch.rand_like(half)
        distance[:, 1] += 1
        sign = torch.randint_like(half, 2) * 2 - 1
        corners = to_corners(boxes) + sign * distance * half * self.box_noise_scale
        return inverse_sigmoid(to_centers(corners.clamp(0, 1)))
