"""The objects of a batch, all images' in one row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ...errors import UserError
from .boxes import to_centers


class Targets(NamedTuple):
    """N objects of a batch, image after image.

    Fields:
        labels: (N,) long, classes from 0.
        boxes: (N, 4) float32 cx, cy, w, h, as fractions of their own image without padding.
        image: (N,) long, index of the image in the batch.
        sizes: objects of every image.
    """

    labels: Tensor
    boxes: Tensor
    image: Tensor
    sizes: list[int]


def collect_targets(
    batched_inputs: list[dict],
    num_classes: int,
    device: torch.device,
    frames: Sequence[tuple[int, int]] | None = None,
) -> Targets:
    """The objects in the "instances" (gt_boxes in pixels, gt_classes) of every sample.

    Args:
        frames: for every sample height and width, in pixels, that boxes are fractions of; its own where None.

    Raises:
        UserError: a sample without instances, or a class that the model does not know.
    """
    labels, boxes = [], []
    for i, x in enumerate(batched_inputs):
        name = x.get("file_name", "a sample")
        if "instances" not in x:
            raise UserError(f"{name}: no 'instances' to train on: use PairedDatasetMapper(is_train=True)")
        instances = x["instances"]
        found = instances.gt_classes.long()
        if len(found) and not 0 <= int(found.min()) <= int(found.max()) < num_classes:
            raise UserError(
                f"{name}: class {int(found.max())} is none of the model's {num_classes} classes (from 0): "
                "set model.num_classes to the set's"
            )
        height, width = frames[i] if frames else instances.image_size
        labels.append(found)
        boxes.append(instances.gt_boxes.tensor.float() / torch.tensor([width, height, width, height]))
    sizes = [len(found) for found in labels]
    image = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    return Targets(
        torch.cat(labels).to(device), to_centers(torch.cat(boxes)).to(device), image.to(device), sizes
    )
