"""SETR-PUP on ViT-L fully fine-tuned on two summed patch embeddings; else setr_pup_ivtuning_vit_l.py."""

from detectron2.config import LazyCall as L

from ivtuning.backbones.stems import SumStem
from ivtuning.tuning import Full

from .setr_pup_ivtuning_vit_l import data, dataloader, lr_multiplier, model, optimizer, train

model.backbone.net.stem = L(SumStem)()
model.backbone.net.tuner = L(Full)()
train.output_dir = "output/MSRS/setr_pup_full_vit_l"
