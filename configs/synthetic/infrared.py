"""Infrared only, through the patch embedding that the trunk has: the trunk stays frozen."""

from detectron2.config import LazyCall as L

from ivtuning.backbones.stems import InfraredOnly
from ivtuning.tuning import Frozen

from .ivtuning import data, dataloader, lr_multiplier, model, optimizer, train

model.backbone.net.stem = L(InfraredOnly)()
model.backbone.net.tuner = L(Frozen)()
train.output_dir = "output/synthetic/infrared"
