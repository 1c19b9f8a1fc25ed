"""Co-DINO (5 scales) on Swin-L with IV-tuning on M3FD, 640 px.

As published, this starts from Sense-X's Co-DINO of Objects365 and COCO (Swin-L, 16 epochs), class layers new,
which mmdetection serves.

The rate of the backbone is scaled by 0.1, stem and tuner too. An epoch is the 3,368 training pairs of the
scene split. No warm-up is published.
"""

from ..common.data.codetr import data, dataloader
from ..common.models.codetr_swin import model
from ..common.optim import optimizer
from ..common.schedule import step
from ..common.train import train

dataloader.train.dataset.names = "m3fd_scene_train"
dataloader.test.dataset.names = "m3fd_scene_val"
dataloader.train.total_batch_size = 16

model.backbone.net.drop_path_rate = 0.5
# Padding to the square of the training counts as image.
model.update(square_pad=640, pad_value=114.0)

optimizer.lr = 2e-4
optimizer.weight_decay = 1e-4
optimizer.params.update(trunk_lr_factor=0.1, added_lr_factor=0.1)

train.max_iter = 10_525  # 50 epochs, x0.1 after 30
lr_multiplier = step(milestones=(6_315 / 10_525,), warmup=250)
train.clip_grad_norm = 0.1
train.precision = "bf16"
train.init_checkpoint = (
    "codino+https://download.openmmlab.com/mmdetection/v3.0/codetr/"
    "co_dino_5scale_swin_large_16e_o365tococo-614254c9.pth"
)
train.eval_period = train.checkpointer.period = 1000
