"""Loaders of paired detection data. An experiment sets the names of the sets, and the augmentations."""

import detectron2.data.transforms as T
from detectron2.config import LazyCall as L
from detectron2.data import get_detection_dataset_dicts

from ivtuning.data.datasets.detection import training_dicts
from ivtuning.data.loaders.eval import build_test_loader
from ivtuning.data.loaders.train import build_train_loader
from ivtuning.data.mappers.pairs import PairedDatasetMapper
from ivtuning.evaluation.coco import PairCOCOEvaluator

# What an unreadable pair does: "stop" ends the run and names it, "skip" leaves it out and counts it.
# gray_visible accepts visible images without color, of cameras that have none.
# images is the folder that the paths in a JSON of your own begin in; None follows the JSON, docs/own_data.md.
data = dict(on_bad_pair="stop", gray_visible=False, images=None)

dataloader = dict(
    train=L(build_train_loader)(
        dataset=L(training_dicts)(names="???"),
        mapper=L(PairedDatasetMapper)(
            is_train=True,
            augmentations=[L(T.RandomFlip)(horizontal=True)],
            photometric=[],
            photometric_ir=[],
            gray_visible="${data.gray_visible}",
        ),
        total_batch_size=16,
        num_workers=4,
        seed="${train.seed}",
        on_bad_pair="${data.on_bad_pair}",
    ),
    test=L(build_test_loader)(
        dataset=L(get_detection_dataset_dicts)(names="???", filter_empty=False),
        mapper=L(PairedDatasetMapper)(is_train=False, augmentations=[], gray_visible="${data.gray_visible}"),
        num_workers=4,
    ),
    evaluator=L(PairCOCOEvaluator)(dataset_name="${..test.dataset.names}"),
)
