"""IV-tuning of a tiny frozen ViTDet on the synthetic pairs: the row of the demo."""

from ..common.data.pairs import data, dataloader
from ..common.models.nano import model
from ..common.optim import optimizer
from ..common.schedule import cosine
from ..common.train import train

model.roi_heads.num_classes = 4

dataloader.train.dataset.names = "synthetic_train"
dataloader.test.dataset.names = "synthetic_val"
dataloader.train.total_batch_size = 8
dataloader.train.num_workers = dataloader.test.num_workers = 0

optimizer.lr = 1e-3
optimizer.weight_decay = 0.05
optimizer.params.added_lr_factor = 3.0  # docs/defaults.md
lr_multiplier = cosine()
train.max_iter = 250
train.clip_grad_norm = 1.0
train.init_checkpoint = "output/demo/trunk.pth"
