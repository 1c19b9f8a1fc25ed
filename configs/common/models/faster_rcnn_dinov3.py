"""Faster R-CNN on DINOv3-B with the simple pyramid; RPN and heads are the ViTDet detector's."""

from .faster_rcnn_vitdet import model
from .trunks import paired_dinov3

model.backbone.net = paired_dinov3("dinov3_vitb16", drop_path_rate=0.1)
model.backbone.in_feature = "block11"
# The trunk takes any size: the batch is padded to the pyramid's stride only.
model.square_pad = 0
