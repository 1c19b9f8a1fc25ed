"""Faster R-CNN on DINOv3-B with IV-tuning on M3FD, boxes only, 1024 px.

No recipe is published. Our choice: size and jitter of ViTDet, and the 50 epochs that are published for Swin-L
(3,368 training pairs of the scene split an epoch). The weights have a license of their own, docs/weights.md.
"""

from ..common.data.lsj import data, dataloader
from ..common.models.faster_rcnn_dinov3 import model
from ..common.optim import optimizer
from ..common.schedule import step
from ..common.train import train

dataloader.train.dataset.names = "m3fd_scene_train"
dataloader.test.dataset.names = "m3fd_scene_val"
dataloader.train.total_batch_size = 16

optimizer.lr = 1e-4
optimizer.weight_decay = 0.05

train.max_iter = 10_525
lr_multiplier = step(milestones=(6_315 / 10_525,), warmup=250)
train.precision = "bf16"
train.init_checkpoint = "timm://vit_base_patch16_dinov3.lvd1689m"
train.eval_period = train.checkpointer.period = 1000
