"""COCO instances at 1333x800: flip, then multi-scale resize, or resize, crop and multi-scale resize.

COCO is read in the layout of its release: coco/annotations/ and coco/{train,val}2017/ in the data root.
"""

import detectron2.data.transforms as T
from detectron2.config import LazyCall as L

from ivtuning.data.datasets.visible import visible_dicts
from ivtuning.data.transforms.one_of import OneOf

from .pairs import data, dataloader

dataloader.train.dataset = L(visible_dicts)(names="coco_2017_train")
dataloader.test.dataset = L(visible_dicts)(names="coco_2017_val", filter_empty=False)

_resize = L(T.ResizeShortestEdge)(
    short_edge_length=list(range(480, 801, 32)), max_size=1333, sample_style="choice"
)
_crop = [
    L(T.ResizeShortestEdge)(short_edge_length=[400, 500, 600], max_size=1333, sample_style="choice"),
    L(T.RandomCrop)(crop_type="absolute_range", crop_size=[384, 600]),
    _resize,
]
dataloader.train.mapper.update(
    augmentations=[L(T.RandomFlip)(horizontal=True), L(OneOf)(augmentations=[[_resize], _crop])],
    use_instance_mask=True,
)
dataloader.test.mapper.augmentations = [L(T.ResizeShortestEdge)(short_edge_length=800, max_size=1333)]
