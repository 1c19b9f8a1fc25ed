"""Swin-L fully fine-tuned on Flowers-102."""

from detectron2.config import LazyCall as L

from ivtuning.tuning import Full

from .mona_equal_lr_swin_l import data, dataloader, lr_multiplier, model, optimizer, train

model.backbone.net.tuner = L(Full)()
train.output_dir = "output/Flowers102/full_swin_l"
