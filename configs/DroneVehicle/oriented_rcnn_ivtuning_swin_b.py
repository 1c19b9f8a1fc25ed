"""Oriented R-CNN on Swin-B with IV-tuning on DroneVehicle, with rotated Faster R-CNN's data and schedule."""

from ..common.models.faster_rcnn_swin import model
from ..common.models.oriented import orient_rcnn
from .faster_rcnn_ivtuning_swin_b import data, dataloader, lr_multiplier, optimizer, train

orient_rcnn(model)
model.roi_heads.num_classes = 5
