"""Co-DINO on Swin-L fully fine-tuned on M3FD, on the sum of two patch embeddings."""

from detectron2.config import LazyCall as L

from ivtuning.backbones.stems import SumStem
from ivtuning.tuning import Full

from .codetr_ivtuning_swin_l import data, dataloader, lr_multiplier, model, optimizer, train

model.backbone.net.stem = L(SumStem)()
model.backbone.net.tuner = L(Full)()
train.output_dir = "output/M3FD/codetr_full_swin_l"
