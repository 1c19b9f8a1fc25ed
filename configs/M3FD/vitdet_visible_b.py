"""ViTDet-B, frozen, on M3FD's visible images alone: neck and heads train."""

from detectron2.config import LazyCall as L

from ivtuning.backbones.stems import VisibleOnly
from ivtuning.tuning import Frozen

from .vitdet_ivtuning_b import data, dataloader, lr_multiplier, model, optimizer, train

model.backbone.net.stem = L(VisibleOnly)()
model.backbone.net.tuner = L(Frozen)()
train.output_dir = "output/M3FD/vitdet_visible_b"
