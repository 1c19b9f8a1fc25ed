"""Random batches for any model of this package."""

from __future__ import annotations

import torch
from detectron2.structures import BitMasks, Boxes, Instances
from torch import nn

from ...data.modalities import IMAGE_KEYS

OBJECTS, CLASSES = 12, 2


def random_batch(model: nn.Module, size: tuple[int, int], batch: int) -> list[dict]:
    """Samples as the mapper makes them for `model`, in host memory, with labels for all tasks.

    A model reads the labels of its own task: "instances" of 12 boxes (with masks if it has a mask head),
    "sem_seg" or "label". All are of the classes 0 and 1, which every model has.
    """
    generator = torch.Generator().manual_seed(0)
    masks = getattr(getattr(model, "roi_heads", None), "mask_on", False)
    return [_sample(model.pixel_mean.numel(), size, masks, generator) for _ in range(batch)]


def random_pairs(model: nn.Module, size: tuple[int, int], batch: int) -> list[dict]:
    """Samples of :func:`random_batch` with "image" and "image_ir" apart, without labels."""
    samples = []
    for x in random_batch(model, size, batch):
        images = dict(zip(IMAGE_KEYS, x["image"].split(3), strict=False))
        samples.append({key: x[key] for key in ("file_name", "height", "width")} | images)
    return samples


def _sample(channels: int, size: tuple[int, int], masks: bool, generator: torch.Generator) -> dict:
    height, width = size

    def integers(below: int, *shape: int) -> torch.Tensor:
        return torch.randint(below, shape, generator=generator)

    image = integers(256, channels, height, width).to(torch.uint8)
    start = 0.7 * torch.rand(OBJECTS, 2, generator=generator)
    end = start + 0.05 + 0.25 * torch.rand(OBJECTS, 2, generator=generator)
    instances = Instances(size)
    instances.gt_boxes = Boxes(torch.cat([start, end], 1) * torch.tensor([width, height, width, height]))
    instances.gt_classes = integers(CLASSES, OBJECTS)
    if masks:
        instances.gt_masks = BitMasks(integers(2, OBJECTS, height, width).bool())
    return {
        "file_name": "a random sample",
        "height": height,
        "width": width,
        # Pinned, as the loader returns it.
        "image": image.pin_memory() if torch.cuda.is_available() else image,
        "instances": instances,
        "sem_seg": integers(CLASSES, height, width),
        "label": int(integers(CLASSES, 1)),
    }
