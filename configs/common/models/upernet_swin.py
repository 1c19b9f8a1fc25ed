"""UPerNet on Swin-L, window 7, visible images, with Mona; an auxiliary FCN on the third stage."""

from detectron2.config import LazyCall as L

from ivtuning.heads.segmentation.fcn import FCN
from ivtuning.heads.segmentation.upernet import UPerNet

from ..constants import VISIBLE_MEAN, VISIBLE_STD
from .segmentor import channels, features, model
from .trunks import visible_swin

model.backbone.net = visible_swin("swin_l", drop_path_rate=0.3)
head = model.sem_seg_head
head.decoder = L(UPerNet)(in_features=features, in_channels=channels, num_classes="${..num_classes}")
head.auxiliary = [L(FCN)(in_feature="p2", in_channels=768, num_classes="${...num_classes}")]
head.num_classes = 150
model.pixel_mean = VISIBLE_MEAN
model.pixel_std = VISIBLE_STD
