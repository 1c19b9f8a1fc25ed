"""Mona (arXiv 2408.08345) on Swin-L, UPerNet, ADE20K: 160k iterations, rate and drop path of its authors.

The rate is five times that of all other methods, whose drop path is 0.3. Mona with their settings:

    optimizer.lr=6e-5 model.backbone.net.drop_path_rate=0.3

The baselines are the same with ``method=Full``, ``method=Adapter``, ... in front.
"""

import detectron2.data.transforms as T
from detectron2.config import LazyCall as L

from ivtuning.data.transforms.photometric import ColorDistortion

from ..common.data.segmentation import data, dataloader
from ..common.models.upernet_swin import model
from ..common.optim import optimizer
from ..common.schedule import poly
from ..common.train import train

model.backbone.net.drop_path_rate = 0.2

dataloader.train.dataset.names = "ade20k_seg_train"
dataloader.test.dataset.names = "ade20k_seg_val"
dataloader.train.total_batch_size = 16
dataloader.train.mapper.augmentations[0] = L(T.ResizeShortestEdge)(
    short_edge_length=(256, 1024), max_size=4096, sample_style="range"
)
dataloader.train.mapper.photometric = [L(ColorDistortion)()]
dataloader.test.mapper.augmentations = [L(T.ResizeShortestEdge)(short_edge_length=512, max_size=2048)]

optimizer.lr = 3e-4
optimizer.weight_decay = 0.01

train.max_iter = 160_000
lr_multiplier = poly()
train.init_checkpoint = "timm://swin_large_patch4_window7_224.ms_in22k"
train.eval_period = train.checkpointer.period = 16_000
train.best_metric = "sem_seg/mIoU"
