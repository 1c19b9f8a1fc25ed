"""Rotated Faster R-CNN on Swin-B with IV-tuning on DroneVehicle, 640x512. All settings are our choice.

An epoch is the 17,990 training pairs; labels are those of both images, see datasets/README.md. Published
figures are AP50 of the 1,469 validation or the 8,980 test pairs, mostly with the infrared images' labels.
"""

from ..common.data.oriented_pairs import data, dataloader
from ..common.models.faster_rcnn_swin import model
from ..common.models.oriented import orient
from ..common.optim import optimizer
from ..common.schedule import step
from ..common.train import train

orient(model)
model.roi_heads.num_classes = 5

dataloader.train.dataset.names = "dronevehicle_both_train"
dataloader.test.dataset.names = "dronevehicle_both_val"
dataloader.train.total_batch_size = 16

optimizer.lr = 1e-4
optimizer.weight_decay = 0.05

train.max_iter = 13_500
lr_multiplier = step(milestones=(8 / 12, 11 / 12), warmup=500)
train.precision = "bf16"
train.init_checkpoint = "timm://swin_base_patch4_window7_224.ms_in22k"
train.eval_period = train.checkpointer.period = 1125
train.best_metric = "bbox/AP50"
