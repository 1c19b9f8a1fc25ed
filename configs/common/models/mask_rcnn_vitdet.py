"""Mask R-CNN on ViTDet-B."""

from .faster_rcnn_vitdet import model
from .mask_head import add_mask_head

add_mask_head(model)
