"""The ground truth of a batch: the objects of all images in one flat list."""

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
        counts: number of objects in every image.
    """

    labels: Tensor
    boxes: Tensor
    image: Tensor
    counts: list[int]


def collect_targets(
    batched_inputs: list[dict],
    num_classes: int,
    device: torch.device,
    image_sizes: Sequence[tuple[int, int]] | None = None,
) -> Targets:
    """Gather the "instances" (gt_boxes in pixels, gt_classes) of every sample.

    Args:
        image_sizes: height and width, in pixels, that the boxes of each sample are fractions of; None: those
            of the sample's own image.

    Raises:
        UserError: a sample without instances, or with a class that the model does not have.
    """
    labels, boxes = [], []
    for i, x in enumerate(batched_inputs):
        name = x.get("file_name", "a sample")
        if "instances" not in x:
            raise UserError(f"{name}: no 'instances' to train on: use PairedDatasetMapper(is_train=True)")
        instances = x["instances"]
        classes = instances.gt_classes.long()
        if len(classes) and not 0 <= int(classes.min()) <= int(classes.max()) < num_classes:
            raise UserError(
                f"{name}: class {int(classes.max())} is not one of the model's {num_classes} classes "
                "(counted from 0): set model.num_classes to the data set's"
            )
        height, width = image_sizes[i] if image_sizes else instances.image_size
        labels.append(classes)
        boxes.append(instances.gt_boxes.tensor.float() / torch.tensor([width, height, width, height]))
    counts = [len(classes) for classes in labels]
    image = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    return Targets(
        torch.cat(labels).to(device), to_centers(torch.cat(boxes)).to(device), image.to(device), counts
    )
