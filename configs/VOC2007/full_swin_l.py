"""Swin-L fully fine-tuned on VOC2007."""

from detectron2.config import LazyCall as L

from ivtuning.tuning import Full

from .mona_swin_l import data, dataloader, lr_multiplier, model, optimizer, train

model.backbone.net.tuner = L(Full)()
train.output_dir = "output/VOC2007/full_swin_l"
