"""SegFormer on Swin-L fully fine-tuned on the visible images alone; else segformer_ivtuning_swin_l.py."""

from detectron2.config import LazyCall as L

from ivtuning.backbones.stems import VisibleOnly
from ivtuning.tuning import Full

from .segformer_ivtuning_swin_l import data, dataloader, lr_multiplier, model, optimizer, train

model.backbone.net.stem = L(VisibleOnly)()
model.backbone.net.tuner = L(Full)()
train.output_dir = "output/MSRS/segformer_full_visible_swin_l"
