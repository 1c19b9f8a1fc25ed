"""DETR's augmentation at 640 px, as published for M3FD: flip, then resize, or resize, crop and resize.

Images are fitted into a box of 640 by 480 to 800 px. A 4:3 image becomes 640x480 in six cases of eleven, and
672x504 to 800x600 in the others.
"""

import detectron2.data.transforms as T
from detectron2.config import LazyCall as L

from ivtuning.data.transforms.one_of import OneOf

from .pairs import data, dataloader

_boxes = [sorted((size, 640)) for size in range(480, 801, 32)]
_resize = L(OneOf)(
    augmentations=[L(T.ResizeShortestEdge)(short_edge_length=short, max_size=long) for short, long in _boxes]
)
_crop = [
    L(T.ResizeShortestEdge)(short_edge_length=[400, 500, 600], max_size=4200, sample_style="choice"),
    L(T.RandomCrop)(crop_type="absolute_range", crop_size=[384, 600]),
    _resize,
]
dataloader.train.mapper.augmentations = [
    L(T.RandomFlip)(horizontal=True),
    L(OneOf)(augmentations=[[_resize], _crop]),
]
dataloader.test.mapper.augmentations = [L(T.ResizeShortestEdge)(short_edge_length=640, max_size=640)]
