"""A segmentor on pairs, without its decoder; by default on Swin-L, window 12, with IV-tuning."""

from detectron2.config import LazyCall as L

from ivtuning.backbones.stems import PromptStem
from ivtuning.backbones.swin import SWIN_SIZES, Swin
from ivtuning.heads.segmentation.head import SemSegHead
from ivtuning.heads.segmentation.segmentor import PairedSemanticSegmentor
from ivtuning.necks.multi_scale import MultiScale
from ivtuning.tuning import IVTuning

model = L(PairedSemanticSegmentor)(
    backbone=L(MultiScale)(
        net=L(Swin)(
            stem=L(PromptStem)(), tuner=L(IVTuning)(), drop_path_rate=0.2, **SWIN_SIZES["swin_l_w12"]
        ),
    ),
    sem_seg_head=L(SemSegHead)(decoder="???", num_classes=9),
    pixel_mean=[123.675, 116.28, 103.53, 108.375, 108.375, 108.375],
    pixel_std=[58.395, 57.12, 57.375, 51.0, 51.0, 51.0],
)
