"""Label maps by full fine-tuning on the two summed patch embeddings."""

from detectron2.config import LazyCall as L

from ivtuning.backbones.stems import SumStem
from ivtuning.tuning import Full

from .seg_ivtuning import data, dataloader, lr_multiplier, model, optimizer, train

model.backbone.net.stem = L(SumStem)()
model.backbone.net.tuner = L(Full)()
# The adapters' rate is theirs alone, as in detection: docs/defaults.md.
optimizer.params.added_lr_factor = 1.0
train.output_dir = "output/synthetic/seg_full"
