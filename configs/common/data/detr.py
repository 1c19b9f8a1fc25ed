"""DETR's augmentation at 640 px, as it was published for M3FD: flip, then resize, or resize, crop and resize.

A size is a box that the image is fitted into: 640 by 480 to 800. Frames of 4:3 so come to 640x480 in six
cases of eleven, else to 672x504 and up to 800x600.
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
