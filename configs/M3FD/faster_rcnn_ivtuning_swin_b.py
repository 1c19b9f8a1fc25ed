"""Faster R-CNN on Swin-B with IV-tuning on M3FD, boxes only, 640 px.

Input size, jitter and schedule (50 epochs, x0.1 after 30) are those published for Co-DETR on M3FD, rate and
drop path those for DINO, both on Swin-L; for Faster R-CNN on Swin-B nothing is published. An epoch is the
3,368 training pairs of the scene split.
"""

from ..common.data.lsj import data, dataloader
from ..common.models.faster_rcnn_swin import model
from ..common.optim import optimizer
from ..common.schedule import step
from ..common.train import train

dataloader.train.dataset.names = "m3fd_scene_train"
dataloader.test.dataset.names = "m3fd_scene_val"
dataloader.train.total_batch_size = 16
_flip, _jitter, _crop = dataloader.train.mapper.augmentations
_jitter.update(target_height=640, target_width=640)
_crop.crop_size = (640, 640)
dataloader.test.mapper.augmentations[0].update(short_edge_length=640, max_size=640)

optimizer.lr = 1e-4
optimizer.weight_decay = 0.05

train.max_iter = 10_525
lr_multiplier = step(milestones=(6_315 / 10_525,), warmup=250)
train.precision = "bf16"
train.init_checkpoint = "timm://swin_base_patch4_window7_224.ms_in22k"
train.eval_period = train.checkpointer.period = 1000
