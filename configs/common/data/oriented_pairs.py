"""Loaders of pairs with oriented boxes, with flips in both directions. An experiment sets the sets' names."""

import detectron2.data.transforms as T
from detectron2.config import LazyCall as L

from ivtuning.evaluation.oriented import OrientedEvaluator

from .pairs import data, dataloader

dataloader.train.mapper.update(
    oriented=True,
    augmentations=[
        L(T.RandomFlip)(horizontal=True),
        L(T.RandomFlip)(horizontal=False, vertical=True),
    ],
)
dataloader.evaluator = L(OrientedEvaluator)(dataset_name="${..test.dataset.names}")
