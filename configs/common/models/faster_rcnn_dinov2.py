"""Faster R-CNN on DINOv2-B with registers; the pyramid resamples its map of stride 14 to 16."""

from .faster_rcnn_dinov3 import model
from .trunks import paired_dinov2

model.backbone.net = paired_dinov2("dinov2_vitb14_reg", drop_path_rate=0.1)
