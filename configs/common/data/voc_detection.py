"""Pascal VOC: trained on 07+12 trainval, tested on 07 test, at 1000x600 with flips.

VOC is read in the layout of its release: VOC2007/ and VOC2012/ in the data root. Training includes objects
marked difficult, as detectron2 reads them; mmdetection leaves them out. In tests they count neither as right
nor as wrong.
"""

import detectron2.data.transforms as T
from detectron2.config import LazyCall as L

from ivtuning.data.datasets.visible import visible_dicts
from ivtuning.evaluation.voc import VOCEvaluator

from .pairs import data, dataloader

dataloader.train.dataset = L(visible_dicts)(names=["voc_2007_trainval", "voc_2012_trainval"])
dataloader.test.dataset = L(visible_dicts)(names="voc_2007_test", filter_empty=False)

_resize = L(T.ResizeShortestEdge)(short_edge_length=600, max_size=1000)
dataloader.train.mapper.augmentations = [_resize, L(T.RandomFlip)(horizontal=True)]
dataloader.test.mapper.augmentations = [_resize]

dataloader.evaluator = L(VOCEvaluator)(dataset_name="${..test.dataset.names}")
