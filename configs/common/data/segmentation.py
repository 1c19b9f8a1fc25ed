"""Loaders of paired semantic segmentation data. An experiment sets the names of the sets.

The augmentation is mmsegmentation's: scale by 0.5 to 2, crop to 512 px, flip. The scale is relative to
640x480; experiments on images of another size replace this first item of the list.
"""

import detectron2.data.transforms as T
from detectron2.config import LazyCall as L

from ivtuning.data.datasets.segmentation import segmentation_dicts
from ivtuning.data.labels import IGNORE
from ivtuning.evaluation.semantic import PairSemSegEvaluator

from .pairs import data, dataloader

dataloader.train.dataset = L(segmentation_dicts)(names="???")
dataloader.test.dataset = L(segmentation_dicts)(names="???")

dataloader.train.mapper.augmentations = [
    L(T.ResizeScale)(min_scale=0.5, max_scale=2.0, target_height=480, target_width=640),
    # No class fills more than 3/4 of the crop, if ten attempts find such a place. Smaller images are not
    # padded here: the model pads after normalization, and labels with 255.
    L(T.RandomCrop_CategoryAreaConstraint)(
        crop_type="absolute",
        crop_size=(512, 512),
        single_category_max_area=0.75,
        ignored_category=IGNORE,
    ),
    L(T.RandomFlip)(horizontal=True),
]

dataloader.evaluator = L(PairSemSegEvaluator)(dataset_name="${..test.dataset.names}")
