"""ViT-Ti with IV-tuning on MSRS boxes at 384x512 px (height x width), for CPUs. All settings are our choice.

``method=<name>`` chooses the other methods, whose adapters have the same share of the trunk, see
configs/common/models/vit_t.py. Other sets, or JSON files, are data.train=... data.val=...
"""

import detectron2.data.transforms as T
from detectron2.config import LazyCall as L

from ivtuning.data.transforms.photometric import Contrast, Gain

from ..common.data.pairs import data, dataloader
from ..common.models.faster_rcnn_vit_t import model
from ..common.models.vit_t import WEIGHTS, methods
from ..common.optim import optimizer
from ..common.schedule import cosine
from ..common.train import train

data.update(train="msrs_det_train", val="msrs_det_val")
dataloader.train.dataset.names = "${data.train}"
dataloader.test.dataset.names = "${data.val}"
dataloader.train.total_batch_size = 4
dataloader.train.num_workers = dataloader.test.num_workers = 1
size = (384, 512)
dataloader.train.mapper.augmentations = [
    L(T.RandomFlip)(horizontal=True),
    L(T.ResizeScale)(min_scale=0.8, max_scale=1.5, target_height=size[0], target_width=size[1]),
    # The model pads after normalization, so that padding is the mean color.
    L(T.FixedSizeCrop)(crop_size=size, pad=False),
]
dataloader.train.mapper.photometric = [L(Gain)(), L(Contrast)()]
dataloader.train.mapper.photometric_ir = [L(Gain)(), L(Contrast)()]
dataloader.test.mapper.augmentations = [L(T.ResizeShortestEdge)(short_edge_length=size[0], max_size=size[1])]
model.roi_heads.num_classes = "auto"

optimizer.lr = 1e-3
optimizer.weight_decay = 0.05
# What the trunk has learned is changed slowly: this is the rate of method=Full.
optimizer.params.trunk_lr_factor = 0.1

train.max_iter = 1000
lr_multiplier = cosine(warmup=0.1)
train.clip_grad_norm = 1.0
train.init_checkpoint = WEIGHTS
train.eval_period = train.checkpointer.period = 500
