"""Makes the pretrained trunk: everything trains, from scratch, on visible images only."""

from detectron2.config import LazyCall as L

from ivtuning.tuning import Full
from ivtuning.tuning.stems import VisibleOnly

from .ivtuning import data, dataloader, lr_multiplier, model, optimizer, train

model.backbone.net.stem = L(VisibleOnly)()
model.backbone.net.tuner = L(Full)()
train.init_checkpoint = ""
train.max_iter = 400
