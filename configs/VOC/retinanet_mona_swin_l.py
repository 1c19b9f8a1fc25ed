"""Mona (arXiv 2408.08345) on Swin-L, RetinaNet, Pascal VOC 07+12: batch 2, 12 passes over the 16,551 images.

The paper's "epochs" hold each image three times: 4 of 24,827 iterations, x0.1 after the third, no warm-up.
Its baselines are this file with ``method=<Name>``: Partial, Adapter, LoRA, AdaptFormer and, with
``model.backbone.net.tuner.freeze_embed=True``, Full, BitFit and NormTuning; and with
``model.backbone.net.tuner=Frozen``. Norms, biases and position tables are not decayed, nor are Mona's scale
vectors, which the authors' code does decay. bf16 stands for their fp16 with loss scaling.
"""

from ..common.data.voc_detection import data, dataloader
from ..common.models.retinanet_swin import model
from ..common.optim import optimizer
from ..common.schedule import step
from ..common.train import train

dataloader.train.total_batch_size = 2

optimizer.lr = 1e-4
optimizer.weight_decay = 0.05

train.max_iter = 99_308
lr_multiplier = step(milestones=(74_481 / 99_308,), warmup=0)
train.precision = "bf16"
train.init_checkpoint = "timm://swin_large_patch4_window7_224.ms_in22k"
train.eval_period = train.checkpointer.period = 24_827
train.best_metric = "bbox/AP50_11point"
