"""ViT-Ti with IV-tuning on cutouts of FLIR's pairs, three classes, at 96 px. All settings are our choice.

A step of 32 pairs takes about a second on one CPU core. ``method=<name>`` chooses the other methods, whose
adapters have the same share of the trunk, see configs/common/models/vit_t.py.
"""

from ..common.data.pair_classification import data, dataloader, set_size
from ..common.models.classifier_vit_t import model
from ..common.models.vit_t import WEIGHTS, methods
from ..common.optim import optimizer
from ..common.schedule import cosine
from ..common.train import train

data.update(train="flir_crops_cls_random_train", val="flir_crops_cls_random_val")
dataloader.train.dataset.names = "${data.train}"
dataloader.test.dataset.names = "${data.val}"
dataloader.train.total_batch_size = 32
set_size(96)
model.num_classes = 3

optimizer.lr = 1e-3
optimizer.weight_decay = 0.05
# What the trunk has learned is changed slowly: this is the rate of method=Full.
optimizer.params.trunk_lr_factor = 0.1

train.max_iter = 1000
lr_multiplier = cosine(warmup=0.1)
train.clip_grad_norm = 1.0
train.init_checkpoint = WEIGHTS
train.eval_period = train.checkpointer.period = 500
train.best_metric = "classification/balanced_accuracy"
