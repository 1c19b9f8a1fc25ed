"""UPerNet on Swin-L, window 7, visible images, with Mona; an FCN on the third stage trains beside it."""

from detectron2.config import LazyCall as L

from ivtuning.backbones.stems import VisibleOnly
from ivtuning.backbones.swin import SWIN_SIZES, Swin
from ivtuning.heads.segmentation.fcn import FCN
from ivtuning.heads.segmentation.upernet import UPerNet
from ivtuning.tuning import Mona

from .segmentor import model

model.backbone.net = L(Swin)(
    stem=L(VisibleOnly)(),
    tuner=L(Mona)(),
    drop_path_rate=0.3,
    # As in the paper's code, the frozen trunk's drop-path stays on in training.
    frozen_eval=False,
    **SWIN_SIZES["swin_l"],
)
head = model.sem_seg_head
head.decoder = L(UPerNet)(
    in_features=["p0", "p1", "p2", "p3"],
    in_channels=[192, 384, 768, 1536],
    num_classes="${..num_classes}",
)
head.auxiliary = [L(FCN)(in_feature="p2", in_channels=768, num_classes="${...num_classes}")]
head.num_classes = 150
model.pixel_mean = [123.675, 116.28, 103.53]
model.pixel_std = [58.395, 57.12, 57.375]
