"""DINO (5 scales) on Swin-L with IV-tuning on M3FD, 640 px.

It starts from detrex's DINO of COCO (Swin-L, 5 scales, 36 epochs), class layers new. Published is the same
of IDEA-Research, which has no address to fetch it from: train.init_checkpoint=dino+DOWNLOADED.pth.

The rate of the backbone is scaled by 0.1, stem and tuner with it. An epoch is the 3,368 training pairs of the
scene split. No warm-up is published.
"""

from ..common.data.detr import data, dataloader
from ..common.models.dino_swin import model
from ..common.optim import optimizer
from ..common.schedule import step
from ..common.train import train

dataloader.train.dataset.names = "m3fd_scene_train"
dataloader.test.dataset.names = "m3fd_scene_val"
dataloader.train.total_batch_size = 16

optimizer.lr = 1e-4
optimizer.weight_decay = 1e-4
optimizer.params.update(trunk_lr_factor=0.1, added_lr_factor=0.1)

train.max_iter = 10_525  # 50 epochs, x0.1 after 27 and 33
lr_multiplier = step(milestones=(5_684 / 10_525, 6_947 / 10_525), warmup=250)
train.clip_grad_norm = 0.1
train.precision = "bf16"
train.init_checkpoint = (
    "detrex-dino+https://github.com/IDEA-Research/detrex-storage/releases/download/v0.2.1/"
    "dino_swin_large_384_5scale_36ep.pth"
)
train.eval_period = train.checkpointer.period = 1000
