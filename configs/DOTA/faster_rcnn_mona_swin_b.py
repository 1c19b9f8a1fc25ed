"""Mona (arXiv 2408.08345) on Swin-B, rotated Faster R-CNN, DOTA-v1.0 in tiles of 1024 px: 12 epochs.

Trunk, rate, weight decay, drop path and schedule are those of the authors' oriented detectors on it. Their
detectors are others (H2RBox-v2 in the released configs, Oriented R-CNN on STAR), and their figure is the test
server's: it does not compare. An epoch is taken as 21,046 tiles; datasets/README.md says how to count yours.
"""

from ..common.constants import VISIBLE_MEAN, VISIBLE_STD
from ..common.data.oriented_pairs import data, dataloader
from ..common.models.faster_rcnn_swin import model
from ..common.models.oriented import orient
from ..common.models.trunks import visible_swin
from ..common.optim import optimizer
from ..common.schedule import step
from ..common.train import train

model.backbone.net = visible_swin("swin_b", drop_path_rate=0.2)
orient(model)
model.roi_heads.update(num_classes=15)
model.roi_heads.box_predictor.test_topk_per_image = 2000
model.update(pixel_mean=VISIBLE_MEAN, pixel_std=VISIBLE_STD)

dataloader.train.dataset.names = "dota_tiles_train"
dataloader.test.dataset.names = "dota_tiles_val"
dataloader.train.total_batch_size = 8

optimizer.lr = 1e-4
optimizer.weight_decay = 0.05

train.max_iter = 31_569
lr_multiplier = step(milestones=(8 / 12, 11 / 12), warmup=500, warmup_factor=1 / 3)
train.clip_grad_norm = 35.0
train.precision = "bf16"
train.init_checkpoint = "timm://swin_base_patch4_window7_224.ms_in22k"
train.eval_period = train.checkpointer.period = 2631
train.best_metric = "bbox/AP50_11point"
