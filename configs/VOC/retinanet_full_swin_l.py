"""Swin-L fully fine-tuned with RetinaNet on Pascal VOC 07+12; its patch embedding stays frozen."""

from detectron2.config import LazyCall as L

from ivtuning.tuning import Full

from .retinanet_mona_swin_l import data, dataloader, lr_multiplier, model, optimizer, train

model.backbone.net.tuner = L(Full)(freeze_embed=True)
train.output_dir = "output/VOC/retinanet_full_swin_l"
