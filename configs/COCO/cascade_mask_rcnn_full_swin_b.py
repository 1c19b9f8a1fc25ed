"""Swin-B fully fine-tuned with Cascade Mask R-CNN on COCO, with the recipe of all methods."""

from detectron2.config import LazyCall as L

from ivtuning.tuning import Full

from .cascade_mask_rcnn_mona_swin_b import data, dataloader, lr_multiplier, model, optimizer, train

model.backbone.net.tuner = L(Full)()
train.output_dir = "output/COCO/cascade_mask_rcnn_full_swin_b"
