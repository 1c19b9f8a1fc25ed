"""The demo's tiny trunk, frozen, on MSRS's infrared images alone."""

from detectron2.config import LazyCall as L

from ivtuning.backbones.stems import InfraredOnly
from ivtuning.tuning import Frozen

from .nano_ivtuning import data, dataloader, lr_multiplier, model, optimizer, train

model.backbone.net.stem = L(InfraredOnly)()
model.backbone.net.tuner = L(Frozen)()
train.output_dir = "output/MSRS/nano_infrared"
