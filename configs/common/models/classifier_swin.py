"""A classifier of visible images on Swin-L with Mona: mean of the last map, one linear layer."""

from detectron2.config import LazyCall as L

from ivtuning.heads.classification import ImageClassifier
from ivtuning.necks.pooled import PooledTrunk

from ..constants import VISIBLE_MEAN, VISIBLE_STD
from .trunks import visible_swin

model = L(ImageClassifier)(
    backbone=L(PooledTrunk)(net=visible_swin("swin_l", drop_path_rate=0.3, out_indices=(3,))),
    num_classes="???",
    pixel_mean=VISIBLE_MEAN,
    pixel_std=VISIBLE_STD,
)
