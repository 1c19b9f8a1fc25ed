"""Loaders of classified pairs. An experiment sets the names of the sets and the size of the images."""

import detectron2.data.transforms as T
from detectron2.config import LazyCall as L

from ivtuning.data.datasets.classification import labeled_images
from ivtuning.data.transforms.photometric import Contrast, Gain
from ivtuning.evaluation.classification import TopKEvaluator

from .pairs import data, dataloader

dataloader.train.dataset = L(labeled_images)(names="???", every_class=True)
dataloader.test.dataset = L(labeled_images)(names="???")
dataloader.test.batch_size = 32
dataloader.evaluator = L(TopKEvaluator)(dataset_name="${..test.dataset.names}", topk=(1,))
dataloader.train.mapper.photometric = [L(Gain)(), L(Contrast)()]
dataloader.train.mapper.photometric_ir = [L(Gain)(), L(Contrast)()]


def set_size(size):
    """Train on 0.7 to 1 of each side, flipped or not, and test on whole images, all at `size` px squared."""
    resize = L(T.Resize)(shape=(size, size))
    crop = L(T.RandomCrop)(crop_type="relative_range", crop_size=(0.7, 0.7))
    dataloader.train.mapper.augmentations = [L(T.RandomFlip)(horizontal=True), crop, resize]
    dataloader.test.mapper.augmentations = [resize]
