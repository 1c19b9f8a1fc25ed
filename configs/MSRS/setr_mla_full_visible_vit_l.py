"""SETR-MLA on ViT-L fully fine-tuned on the visible images alone; else setr_mla_ivtuning_vit_l.py."""

from detectron2.config import LazyCall as L

from ivtuning.backbones.stems import VisibleOnly
from ivtuning.tuning import Full

from .setr_mla_ivtuning_vit_l import data, dataloader, lr_multiplier, model, optimizer, train

model.backbone.net.stem = L(VisibleOnly)()
model.backbone.net.tuner = L(Full)()
train.output_dir = "output/MSRS/setr_mla_full_visible_vit_l"
