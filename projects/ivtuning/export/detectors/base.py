"""What the graphs of all detectors share."""

from __future__ import annotations

import torch
from torch import Tensor, nn

NAMES = ["boxes", "scores", "labels", "count"]


class DetectorGraph(nn.Module):
    """From a batch of images to named tensors.

    Attributes:
        names (list[str]): names of the outputs.
        ranked (tuple[str, ...]): those whose rows are in the order of a score that is none of the outputs'.
        any_size (bool): whether one graph can take images of several sizes.
        rounding_risk (str): why rounding in the backbone can change more than it rounds; "" if it does not.
        model (nn.Module): the detector, in evaluation mode.
    """

    names: list[str]
    ranked: tuple[str, ...] = ()
    any_size = True
    rounding_risk = ""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model.eval()

    def forward(self, images: Tensor, image_size: tuple[int, int] | None = None) -> tuple[Tensor, ...]:
        """
        Args:
            images: (B, C, H, W) float, normalized, and padded with 0 at the right and the bottom.
            image_size: height and width of all images without the padding; None: there is no padding.

        Returns:
            The tensors that `names` names.
        """
        return self.compute(images, image_size or (images.shape[-2], images.shape[-1]))

    def compute(self, images: Tensor, image_size: tuple[int, int]) -> tuple[Tensor, ...]:
        """See :meth:`forward`."""
        raise NotImplementedError


def clip(boxes: Tensor, image_size: tuple[int, int]) -> Tensor:
    """Boxes (..., 4) x1, y1, x2, y2, cut at the borders of an image of this height and width."""
    height, width = image_size
    x, y = boxes[..., 0::2].clamp(0, width), boxes[..., 1::2].clamp(0, height)
    return torch.stack([x, y], -1).flatten(-2)


def nonempty(boxes: Tensor, min_side: float = 0.0) -> Tensor:
    """Which boxes (..., 4) x1, y1, x2, y2 have sides longer than `min_side`, (...) bool."""
    return (boxes[..., 2:] - boxes[..., :2] > min_side).all(-1)


def pick(values: Tensor, index: Tensor) -> Tensor:
    """Rows `index` (B, N) of `values` (B, M, ...), of every image its own: (B, N, ...)."""
    trailing = values.shape[2:]
    return values.gather(1, index.view(*index.shape, *(1 for _ in trailing)).expand(-1, -1, *trailing))


def best(scores: Tensor, valid: Tensor, limit: int) -> tuple[Tensor, Tensor, Tensor]:
    """The highest of `scores` (B, M) among those that are `valid` (B, M) bool.

    Returns:
        Scores (B, N) in descending order, their indices (B, N), and which are valid, (B, N) bool; these come
        first. N is M, or `limit` if that is less.
    """
    scores, index = scores.masked_fill(~valid, -torch.inf).topk(min(limit, scores.shape[1]), 1)
    return scores, index, scores > -torch.inf


def pack(
    boxes: Tensor, scores: Tensor, labels: Tensor, valid: Tensor, image_size: tuple[int, int]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Detections in descending order of their scores, with what :func:`..detections` documents as padding.

    Boxes are clipped; those that lie outside of the image are dropped, as detectron2 does at the end.

    Args:
        boxes: (B, N, 4) x1, y1, x2, y2 in pixels.
        scores, labels: (B, N).
        valid: (B, N) bool, what is no padding.
        image_size: height and width.
    """
    boxes = clip(boxes, image_size)
    scores, order, valid = best(scores, valid & nonempty(boxes), scores.shape[1])
    return (
        pick(boxes, order).masked_fill(~valid[..., None], 0.0),
        scores.masked_fill(~valid, 0.0),
        labels.gather(1, order).masked_fill(~valid, 0),
        valid.sum(1),
    )
