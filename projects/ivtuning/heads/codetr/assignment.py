"""Which anchor answers for which object: adaptive training sample selection (ATSS, arXiv 1912.02424)."""

from __future__ import annotations

import torch
from torch import Tensor

from ..dino.boxes import iou


@torch.no_grad()
def assign(anchors: list[Tensor], objects: Tensor, candidates: int = 9) -> Tensor:
    """Every object's anchors (algorithm 1): of the nearest on each map those that overlap it unusually well.

    An anchor answers where its overlap reaches the mean + standard deviation of the object's candidates, and
    its center lies more than 0.01 px inside the object; of several objects for the one it overlaps most.

    Args:
        anchors: of each map, (N_i, 4) x1, y1, x2, y2; at least two in all.
        objects: (G, 4), in the same pixels.
        candidates: nearest anchors on each map, by the distance of the centers.

    Returns:
        (N,) long, of every anchor, map after map, its object, -1 for none.
    """
    every = torch.cat(anchors)
    none = len(objects)
    if not none:
        return torch.full((len(every),), -1, device=every.device)
    centers = _centers(every)
    chosen, start = [], 0
    for level in anchors:
        place = centers[start : start + len(level)]
        # Without matrix products, which would tell near pixels apart badly.
        distance = torch.cdist(_centers(objects), place, compute_mode="donot_use_mm_for_euclid_dist")
        chosen.append(distance.topk(min(candidates, len(level)), largest=False).indices + start)
        start += len(level)
    chosen = torch.cat(chosen, 1)  # (G, C)

    overlap = iou(every[chosen], objects[:, None])
    enough = overlap >= (overlap.mean(1) + overlap.std(1))[:, None]
    place = centers[chosen]
    margin = torch.cat([place - objects[:, None, :2], objects[:, None, 2:] - place], -1).amin(-1)
    positive = enough & (margin > 0.01)
    best = overlap.new_zeros(len(every)).scatter_reduce(0, chosen[positive], overlap[positive], "amax")
    wins = positive & (overlap == best[chosen])
    owner = torch.arange(none, device=every.device)[:, None].expand_as(chosen)[wins]
    # Where two overlap it alike, the first object has the anchor, on every device.
    assigned = owner.new_full((len(every),), none).scatter_reduce(0, chosen[wins], owner, "amin")
    return assigned.masked_fill(assigned == none, -1)


def _centers(boxes: Tensor) -> Tensor:
    return (boxes[:, :2] + boxes[:, 2:]) / 2
