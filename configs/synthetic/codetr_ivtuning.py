"""A tiny Co-DINO with IV-tuning on the synthetic pairs."""

from ..common.models.nano_codetr import model
from .ivtuning import data, dataloader, lr_multiplier, optimizer, train

model.num_classes = 4

train.max_iter = 600
train.clip_grad_norm = 0.1
