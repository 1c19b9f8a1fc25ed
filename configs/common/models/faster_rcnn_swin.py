"""Faster R-CNN on Swin-B with FPN; RPN and heads are those of the ViTDet detector, so that rows compare."""

from detectron2.config import LazyCall as L
from detectron2.modeling.backbone.fpn import LastLevelMaxPool

from ivtuning.backbones.stems import PromptStem
from ivtuning.backbones.swin import SWIN_SIZES, Swin
from ivtuning.necks.feature_pyramid import FeaturePyramid
from ivtuning.tuning import IVTuning

from .faster_rcnn_vitdet import model

model.backbone = L(FeaturePyramid)(
    net=L(Swin)(stem=L(PromptStem)(), tuner=L(IVTuning)(), drop_path_rate=0.2, **SWIN_SIZES["swin_b"]),
    out_channels=256,
    top_block=L(LastLevelMaxPool)(),
)
# Swin takes any size: the batch is padded to the pyramid's stride alone.
model.square_pad = 0
