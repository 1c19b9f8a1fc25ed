"""Mona (arXiv 2408.08345) on Swin-B, Cascade Mask R-CNN, COCO: 36 epochs ("3x"), batch 16, no layer decay.

Its baselines are this file with ``method=<Name>``: Full, BitFit, NormTuning, Partial, Adapter, LoRA,
AdaptFormer; and with ``model.backbone.net.tuner=Frozen``. An epoch is 7,330 iterations of the 117,266 images
with objects. Norms, biases and position tables are not decayed, nor are Mona's scale vectors, which the
authors' code does decay. bf16 stands for their fp16 with loss scaling.
"""

from ..common.data.coco_instance import data, dataloader
from ..common.models.cascade_mask_rcnn_swin import model
from ..common.optim import optimizer
from ..common.schedule import step
from ..common.train import train

dataloader.train.total_batch_size = 16

optimizer.lr = 1e-4
optimizer.weight_decay = 0.05

train.max_iter = 263_880
lr_multiplier = step(milestones=(197_910 / 263_880, 241_890 / 263_880), warmup=500)
train.precision = "bf16"
train.init_checkpoint = "timm://swin_base_patch4_window7_224.ms_in22k"
train.eval_period = train.checkpointer.period = 7330
