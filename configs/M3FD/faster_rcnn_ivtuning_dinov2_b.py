"""Faster R-CNN on DINOv2-B with registers and IV-tuning on M3FD, boxes only, 1024 px.

No recipe is published. Our choice: that of faster_rcnn_ivtuning_dinov3_b.py.
"""

from ..common.models.faster_rcnn_dinov2 import model
from .faster_rcnn_ivtuning_dinov3_b import data, dataloader, lr_multiplier, optimizer, train

train.init_checkpoint = "timm://vit_base_patch14_reg4_dinov2.lvd142m"
