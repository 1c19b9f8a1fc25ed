"""Simple copy-paste (arXiv 2012.07177) on pairs: an object is pasted at the same place in both images."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from detectron2.data.detection_utils import filter_empty_instances
from detectron2.structures import BitMasks, Boxes, Instances

from ...errors import UserError
from ..modalities import IMAGE_KEYS

PASTED = {*IMAGE_KEYS, "sem_seg"}  # (..., H, W)


class CopyPaste:
    """Wraps a mapper and pastes objects of another random pair into some of its samples."""

    def __init__(
        self,
        mapper: Callable[[dict], dict | None],
        dataset: Sequence[dict],
        prob: float = 0.5,
        max_objects: int = 20,
    ):
        """
        Args:
            mapper: a training :class:`.pairs.PairedDatasetMapper`, or anything with its interface.
            dataset: the dataset dicts to paste from.
            prob: probability of pasting, 0..1.
            max_objects: most objects to paste; how many of the pair's objects are pasted is drawn.

        Raises:
            UserError: `prob` or `max_objects` out of range.
        """
        if not 0 <= prob <= 1 or max_objects < 1:
            raise UserError(f"CopyPaste(prob={prob}, max_objects={max_objects}): prob is 0..1, objects >= 1")
        self.mapper = mapper
        self.dataset = dataset
        self.prob = prob
        self.max_objects = max_objects

    def __call__(self, dataset_dict: dict) -> dict | None:
        """The mapper's output, perhaps with pasted objects; `instances` hold what remains visible of all."""
        sample = self.mapper(dataset_dict)
        if sample is None or "instances" not in sample or np.random.uniform() >= self.prob:
            return sample
        index = np.random.randint(len(self.dataset))
        if self.dataset[index]["file_name"] == dataset_dict["file_name"]:
            index = (index + 1) % len(self.dataset)
        source = self.mapper(self.dataset[index])
        if source is None or len(source.get("instances", ())) == 0:
            return sample
        if any(key in sample and key not in source for key in PASTED):  # an image is missing there
            return sample
        total = len(source["instances"])
        count = np.random.randint(1, min(total, self.max_objects) + 1)
        chosen = torch.from_numpy(np.sort(np.random.permutation(total)[:count]))
        return _paste(sample, source, source["instances"][chosen])


def _paste(sample: dict, source: dict, objects: Instances) -> dict:
    """Paste `objects` of `source` into `sample`. If the sizes differ, the common top left corner is used."""
    height, width = size = sample["instances"].image_size
    h, w = (min(a, b) for a, b in zip(size, source["instances"].image_size, strict=True))
    regions = torch.zeros(len(objects), height, width, dtype=torch.bool)
    regions[:, :h, :w] = _regions(objects)[:, :h, :w]
    covered = regions.any(0)
    for key in PASTED & sample.keys():
        corner = sample[key][..., :h, :w]
        sample[key][..., :h, :w] = torch.where(covered[:h, :w], source[key][..., :h, :w], corner)

    own = sample["instances"]
    before = _regions(own)
    left = before & ~covered
    touched = (before != left).flatten(1).any(1)
    boxes = torch.where(touched[:, None], _shrink(own.gt_boxes.tensor, left), own.gt_boxes.tensor)
    pasted = _rebuilt(objects, _shrink(objects.gt_boxes.tensor, regions), regions)
    sample["instances"] = Instances.cat([_rebuilt(own, boxes, left), pasted])
    return sample


def _regions(instances: Instances) -> torch.Tensor:
    """(N,H,W) bool: the masks, or without masks the pixels that the boxes touch."""
    if instances.has("gt_masks"):
        return instances.gt_masks.tensor
    regions = torch.zeros(len(instances), *instances.image_size, dtype=torch.bool)
    boxes = instances.gt_boxes.tensor
    corners = torch.cat([boxes[:, :2].floor(), boxes[:, 2:].ceil()], dim=1).int().tolist()
    for region, (x0, y0, x1, y1) in zip(regions, corners, strict=True):
        region[y0:y1, x0:x1] = True
    return regions


def _shrink(boxes: torch.Tensor, regions: torch.Tensor) -> torch.Tensor:
    """Clip (N,4) XYXY boxes to their (N,H,W) regions; empty regions give empty boxes."""
    tight = BitMasks(regions).get_bounding_boxes().tensor
    return torch.cat([boxes[:, :2].maximum(tight[:, :2]), boxes[:, 2:].minimum(tight[:, 2:])], dim=1)


def _rebuilt(instances: Instances, boxes: torch.Tensor, regions: torch.Tensor) -> Instances:
    """`instances` with these boxes and masks, without the empty ones, on an image of the regions' size."""
    rebuilt = Instances(tuple(regions.shape[1:]), **instances.get_fields())
    rebuilt.gt_boxes = Boxes(boxes)
    if rebuilt.has("gt_masks"):
        rebuilt.gt_masks = BitMasks(regions)
    return filter_empty_instances(rebuilt)
