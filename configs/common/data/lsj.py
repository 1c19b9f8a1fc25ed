"""Large-scale jitter at 1024 px (arXiv 2012.07177), as ViTDet uses it: flip, scale 0.1 to 2.0, crop."""

import detectron2.data.transforms as T
from detectron2.config import LazyCall as L

from .pairs import data, dataloader

image_size = 1024
dataloader.train.mapper.augmentations = [
    L(T.RandomFlip)(horizontal=True),
    L(T.ResizeScale)(min_scale=0.1, max_scale=2.0, target_height=image_size, target_width=image_size),
    # No padding here: the model pads to the square after normalization, so that padding is the mean color.
    L(T.FixedSizeCrop)(crop_size=(image_size, image_size), pad=False),
]
dataloader.test.mapper.augmentations = [
    L(T.ResizeShortestEdge)(short_edge_length=image_size, max_size=image_size),
]
