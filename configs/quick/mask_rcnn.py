"""Seconds long: Mask R-CNN on pairs, which the synthetic scenes have masks for."""

from ..common.models.mask_head import add_mask_head
from .ivtuning import data, dataloader, lr_multiplier, model, optimizer, train

add_mask_head(model, conv_dims=(32, 32), sampling_ratio=2)
dataloader.train.mapper.use_instance_mask = True
