"""Label maps from visible images only: the trunk stays frozen, neck and head train."""

from detectron2.config import LazyCall as L

from ivtuning.backbones.stems import VisibleOnly
from ivtuning.tuning import Frozen

from .seg_ivtuning import data, dataloader, lr_multiplier, model, optimizer, train

model.backbone.net.stem = L(VisibleOnly)()
model.backbone.net.tuner = L(Frozen)()
train.output_dir = "output/synthetic/seg_visible"
