"""Rotated RetinaNet on Swin-B with IV-tuning on DroneVehicle, with Faster R-CNN's data and schedule."""

from ..common.constants import PAIR_MEAN, PAIR_STD
from ..common.models.oriented import orient
from ..common.models.retinanet_swin import model
from ..common.models.trunks import paired_swin
from .faster_rcnn_ivtuning_swin_b import data, dataloader, lr_multiplier, optimizer, train

model.backbone.net = paired_swin("swin_b")
model.backbone.net.out_indices = (1, 2, 3)
model.backbone.top_block.in_channels = 1024
orient(model)
model.update(num_classes=5, pixel_mean=PAIR_MEAN, pixel_std=PAIR_STD)
