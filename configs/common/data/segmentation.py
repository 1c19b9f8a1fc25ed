"""Loaders of paired semantic segmentation data. An experiment sets the names.

Augmentation as in mmsegmentation: scale 0.5 to 2 (of 640x480; experiments on images of other sizes replace
this first item of the list), crop of 512 px, flip.
"""

import detectron2.data.transforms as T
from detectron2.config import LazyCall as L
from detectron2.data import build_detection_test_loader

from ivtuning.data.labels import IGNORE
from ivtuning.data.loader import build_train_loader
from ivtuning.data.mapper import PairedDatasetMapper
from ivtuning.data.segmentation import segmentation_dicts
from ivtuning.evaluation.semantic import PairSemSegEvaluator

# "stop" names the first pair that cannot be read and ends the run; "skip" counts and reports.
data = dict(on_bad_pair="stop")

dataloader = dict(
    train=L(build_train_loader)(
        dataset=L(segmentation_dicts)(names="???"),
        mapper=L(PairedDatasetMapper)(
            is_train=True,
            augmentations=[
                L(T.ResizeScale)(min_scale=0.5, max_scale=2.0, target_height=480, target_width=640),
                # No class fills more than 3/4 of the crop, if ten tries find such a place. What is smaller
                # stays so: the model pads after normalisation, labels with 255.
                L(T.RandomCrop_CategoryAreaConstraint)(
                    crop_type="absolute",
                    crop_size=(512, 512),
                    single_category_max_area=0.75,
                    ignored_category=IGNORE,
                ),
                L(T.RandomFlip)(horizontal=True),
            ],
            photometric=[],
            photometric_ir=[],
        ),
        total_batch_size=16,
        num_workers=4,
        seed="${train.seed}",
        on_bad_pair="${data.on_bad_pair}",
    ),
    test=L(build_detection_test_loader)(
        dataset=L(segmentation_dicts)(names="???"),
        mapper=L(PairedDatasetMapper)(is_train=False, augmentations=[]),
        num_workers=4,
    ),
    evaluator=L(PairSemSegEvaluator)(dataset_name="${..test.dataset.names}"),
)
