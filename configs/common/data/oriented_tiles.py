"""Loaders of tiles of aerial images, visible alone, with oriented boxes; see oriented_pairs.py."""

import detectron2.data.transforms as T
from detectron2.config import LazyCall as L

from ivtuning.data.datasets.visible import visible_dicts

from .oriented_pairs import data, dataloader

dataloader.train.dataset = L(visible_dicts)(names="???")
dataloader.test.dataset = L(visible_dicts)(names="???", filter_empty=False)
