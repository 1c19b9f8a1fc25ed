"""Adaptive training sample selection (ATSS, arXiv 1912.02424): assigns anchors to objects."""

from __future__ import annotations

import torch
from torch import Tensor

from ..dino.boxes import iou


@torch.no_grad()
def assign(anchors: list[Tensor], objects: Tensor, candidates: int = 9) -> Tensor:
    """Assign anchors to objects (algorithm 1 of the paper).

    The candidates of an object are its nearest anchors on each map. A candidate is positive where its IoU
    with the object reaches the mean + standard deviation of all candidates', and its center lies more than
    0.01 px inside the object. An anchor that is positive for several objects gets the one with the highest
    IoU.

    Args:
        anchors: (N_i, 4) x1, y1, x2, y2 of each map; at least two in all.
        objects: (G, 4), in the same pixels.
        candidates: number of nearest anchors on each map, by the distance between centers.

    Returns:
        (N,) long, the object of every anchor, map after map; -1 for none.
    """
    all_anchors = torch.cat(anchors)
    num_objects = len(objects)
    if not num_objects:
        return torch.full((len(all_anchors),), -1, device=all_anchors.device)
    centers = _centers(all_anchors)
    chosen, start = [], 0
    for level in anchors:
        level_centers = centers[start : start + len(level)]
        # Without matrix products, which are too inexact to tell which of two near pixels is nearer.
        distance = torch.cdist(_centers(objects), level_centers, compute_mode="donot_use_mm_for_euclid_dist")
        chosen.append(distance.topk(min(candidates, len(level)), largest=False).indices + start)
        start += len(level)
    chosen = torch.cat(chosen, 1)  # (G, C)

    overlap = iou(all_anchors[chosen], objects[:, None])
    overlaps_enough = overlap >= (overlap.mean(1) + overlap.std(1))[:, None]
    chosen_centers = centers[chosen]
    margin = torch.cat([chosen_centers - objects[:, None, :2], objects[:, None, 2:] - chosen_centers], -1)
    positive = overlaps_enough & (margin.amin(-1) > 0.01)
    best = overlap.new_zeros(len(all_anchors)).scatter_reduce(0, chosen[positive], overlap[positive], "amax")
    wins = positive & (overlap == best[chosen])
    owner = torch.arange(num_objects, device=all_anchors.device)[:, None].expand_as(chosen)[wins]
    # Where an anchor has the same IoU with two objects, the first one gets it, on every device.
    assigned = owner.new_full((len(all_anchors),), num_objects)
    assigned = assigned.scatter_reduce(0, chosen[wins], owner, "amin")
    return assigned.masked_fill(assigned == num_objects, -1)


def _centers(boxes: Tensor) -> Tensor:
    return (boxes[:, :2] + boxes[:, 2:]) / 2
