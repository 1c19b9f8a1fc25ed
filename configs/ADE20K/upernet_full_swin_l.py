"""Swin-L fully fine-tuned with UPerNet on ADE20K; learning rate and drop path of all methods but Mona."""

from detectron2.config import LazyCall as L

from ivtuning.tuning import Full

from .upernet_mona_equal_lr_swin_l import data, dataloader, lr_multiplier, model, optimizer, train

model.backbone.net.tuner = L(Full)()
train.output_dir = "output/ADE20K/upernet_full_swin_l"
