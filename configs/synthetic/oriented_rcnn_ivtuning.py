"""A tiny Oriented R-CNN with IV-tuning on the synthetic drone views: a row of the demo.

The recipe is that of the upright boxes, with fewer iterations; nothing was searched for.
"""

from ..common.models.nano import model
from ..common.models.oriented import orient_rcnn
from .oriented_ivtuning import data, dataloader, lr_multiplier, optimizer, train

orient_rcnn(model)
model.roi_heads.num_classes = 2

train.max_iter = 200
