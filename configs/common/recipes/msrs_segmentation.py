"""Segmentation of MSRS, nine classes, at 512 px. Nothing of the published recipe is known: all is our choice.

40,000 iterations of batch 8 are 295 epochs of the 1,083 training pairs. Evaluation sees whole images.
"""

import detectron2.data.transforms as T
from detectron2.config import LazyCall as L

from ..data.segmentation import data, dataloader
from ..optim import optimizer
from ..schedule import poly
from ..train import train

dataloader.train.dataset.names = "msrs_seg_train"
dataloader.test.dataset.names = "msrs_seg_test"
dataloader.train.total_batch_size = 8
# 0.5 to 2 times the 480 px of the images' short side.
dataloader.train.mapper.augmentations[0] = L(T.ResizeShortestEdge)(
    short_edge_length=(240, 960), max_size=2560, sample_style="range"
)

optimizer.lr = 1e-4
optimizer.weight_decay = 0.05

train.max_iter = 40_000
lr_multiplier = poly(power=0.9, warmup=1500)
train.precision = "bf16"
train.eval_period = train.checkpointer.period = 4000
train.best_metric = "sem_seg/mIoU"
