"""Faster R-CNN on Swin-B with FPN; RPN and heads are the ViTDet detector's, so that results compare."""

from detectron2.config import LazyCall as L
from detectron2.modeling.backbone.fpn import LastLevelMaxPool

from ivtuning.necks.feature_pyramid import FeaturePyramid

from .faster_rcnn_vitdet import model
from .trunks import paired_swin

model.backbone = L(FeaturePyramid)(
    net=paired_swin("swin_b"), out_channels=256, top_block=L(LastLevelMaxPool)()
)
# Swin takes any size: the batch is padded to the pyramid's stride only.
model.square_pad = 0
