"""ViTDet-B with IV-tuning on M3FD, boxes only, 1024 px.

Optimizer, jitter, drop path and schedule are the published ones. They were written for COCO at batch 64; at
batch 16 on the 3,368 training pairs of the scene split 184,375 iterations are 876 epochs. With
train.max_iter=10525, 50 epochs, the two steps come at the same shares of the run, after the same warm-up.
"""

from ..common.data.lsj import data, dataloader
from ..common.models.faster_rcnn_vitdet import model
from ..common.optim import optimizer
from ..common.schedule import step
from ..common.train import train

dataloader.train.dataset.names = "m3fd_scene_train"
dataloader.test.dataset.names = "m3fd_scene_val"
dataloader.train.total_batch_size = 16

optimizer.lr = 1e-4
optimizer.weight_decay = 0.1
optimizer.params.layer_decay = 0.7

train.max_iter = 184_375
lr_multiplier = step(milestones=(163_889 / 184_375, 177_546 / 184_375), warmup=250)
train.precision = "bf16"
train.init_checkpoint = "timm://vit_base_patch16_224.mae"
train.eval_period = train.checkpointer.period = 5000
