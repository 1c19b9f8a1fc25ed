"""The loader of test images for classification."""

from __future__ import annotations

from collections.abc import Callable

from detectron2.data.common import DatasetFromList, MapDataset
from detectron2.data.samplers import InferenceSampler
from torch.utils.data import DataLoader


def build_test_loader(
    dataset: list[dict], mapper: Callable, batch_size: int = 1, num_workers: int = 0
) -> DataLoader:
    """detectron2's test loader with a batch size, which release 0.6 lacks; each rank reads its share."""
    mapped = MapDataset(DatasetFromList(dataset, copy=False), mapper)
    return DataLoader(
        mapped, batch_size, sampler=InferenceSampler(len(mapped)), num_workers=num_workers, collate_fn=list
    )
