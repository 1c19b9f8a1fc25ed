"""A tiny rotated Faster R-CNN with IV-tuning on the synthetic drone views."""

from ..common.data.oriented_pairs import data, dataloader
from ..common.models.nano import model
from ..common.models.oriented import orient
from .ivtuning import lr_multiplier, optimizer, train

orient(model)
model.roi_heads.num_classes = 2

dataloader.train.dataset.names = "synthetic_drone_train"
dataloader.test.dataset.names = "synthetic_drone_val"
dataloader.train.total_batch_size = 8
dataloader.train.num_workers = dataloader.test.num_workers = 0

train.max_iter = 400
