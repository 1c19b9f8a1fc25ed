"""A segmentor on pairs, without its decoder; by default on Swin-L, window 12, with IV-tuning."""

from detectron2.config import LazyCall as L

from ivtuning.heads.segmentation.head import SemSegHead
from ivtuning.heads.segmentation.segmentor import PairedSemanticSegmentor
from ivtuning.necks.multi_scale import MultiScale

from ..constants import PAIR_MEAN, PAIR_STD
from .trunks import paired_swin

model = L(PairedSemanticSegmentor)(
    backbone=L(MultiScale)(net=paired_swin("swin_l_w12")),
    sem_seg_head=L(SemSegHead)(decoder="???", num_classes=9),
    pixel_mean=PAIR_MEAN,
    pixel_std=PAIR_STD,
)
# Names and channels of the maps of Swin-L's stages.
features, channels = ["p0", "p1", "p2", "p3"], [192, 384, 768, 1536]
