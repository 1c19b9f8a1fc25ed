"""IV-tuning of the demo's tiny trunk on MSRS boxes at 320x240, for a CPU. All settings are our choice."""

import detectron2.data.transforms as T
from detectron2.config import LazyCall as L

from ivtuning.data.transforms.photometric import Contrast, Gain, GaussianNoise

from ..common.data.pairs import data, dataloader
from ..common.models.nano import model
from ..common.optim import optimizer
from ..common.schedule import cosine
from ..common.train import train

model.roi_heads.num_classes = 3

dataloader.train.dataset.names = "msrs_det_train"
dataloader.test.dataset.names = "msrs_det_val"
dataloader.train.total_batch_size = 8
dataloader.train.num_workers = dataloader.test.num_workers = 0
size = (240, 320)
dataloader.train.mapper.augmentations = [
    L(T.RandomFlip)(horizontal=True),
    L(T.ResizeScale)(min_scale=0.8, max_scale=1.5, target_height=size[0], target_width=size[1]),
    L(T.FixedSizeCrop)(crop_size=size),
]
dataloader.train.mapper.photometric = [L(Gain)(), L(Contrast)(), L(GaussianNoise)()]
dataloader.train.mapper.photometric_ir = [L(Gain)(), L(Contrast)(), L(GaussianNoise)(gray=True)]
dataloader.test.mapper.augmentations = [L(T.ResizeShortestEdge)(short_edge_length=size[0], max_size=size[1])]

optimizer.lr = 1e-3
optimizer.weight_decay = 0.05
optimizer.params.added_lr_factor = 3.0  # docs/defaults.md
lr_multiplier = cosine()
train.max_iter = 400
train.clip_grad_norm = 1.0
train.init_checkpoint = "output/demo/trunk.pth"
