"""A classifier of visible images on Swin-L with Mona: mean of the last map, one linear layer."""

from detectron2.config import LazyCall as L

from ivtuning.backbones.stems import VisibleOnly
from ivtuning.backbones.swin import SWIN_SIZES, Swin
from ivtuning.heads.classification import ImageClassifier
from ivtuning.necks.pooled import PooledTrunk
from ivtuning.tuning import Mona

model = L(ImageClassifier)(
    backbone=L(PooledTrunk)(
        net=L(Swin)(
            stem=L(VisibleOnly)(),
            tuner=L(Mona)(),
            drop_path_rate=0.3,
            out_indices=(3,),
            # As in the paper's code, the frozen trunk's drop-path stays on in training.
            frozen_eval=False,
            **SWIN_SIZES["swin_l"],
        ),
    ),
    num_classes="???",
    pixel_mean=[123.675, 116.28, 103.53],
    pixel_std=[58.395, 57.12, 57.375],
)
