"""Visible only: the trunk stays frozen, neck and heads train."""

from detectron2.config import LazyCall as L

from ivtuning.backbones.stems import VisibleOnly
from ivtuning.tuning import Frozen

from .ivtuning import data, dataloader, lr_multiplier, model, optimizer, train

model.backbone.net.stem = L(VisibleOnly)()
model.backbone.net.tuner = L(Frozen)()
train.output_dir = "output/synthetic/visible"
