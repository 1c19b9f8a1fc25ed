"""Loaders of pairs with salient objects: VT5000 in squares of 384 px, as IV-tuning's released code has it.

That code also rotates a fifth of the images by up to 15 degrees, and changes colors and sharpness. Here crops
of 0.9 to 1 of each side, brightness and contrast take their place.
"""

import detectron2.data.transforms as T
from detectron2.config import LazyCall as L

from ivtuning.data.transforms.photometric import Contrast, Gain
from ivtuning.evaluation.saliency import SaliencyEvaluator

from .segmentation import data, dataloader

size = (384, 384)
dataloader.train.dataset.names = "vt5000_seg_train"
dataloader.test.dataset.names = "vt5000_seg_test"
dataloader.train.mapper.augmentations = [
    L(T.RandomFlip)(horizontal=True),
    L(T.RandomCrop)(crop_type="relative_range", crop_size=(0.9, 0.9)),
    L(T.Resize)(shape=size),
]
dataloader.train.mapper.photometric = [L(Gain)(), L(Contrast)()]
dataloader.test.mapper.augmentations = [L(T.Resize)(shape=size)]
dataloader.evaluator = L(SaliencyEvaluator)(dataset_name="${..test.dataset.names}")
