"""Classes of your own pairs: Swin-B with IV-tuning at 224 px. All settings are our choice; docs/own_data.md.

Name the files of datasets/prepare_pair_folders.py: data.train=my_train.json data.val=my_val.json. The classes
follow from the JSON. With model.num_classes=auto, configs/FLIR_crops/ivtuning_vit_t.py takes them on a CPU.
"""

from ..common.constants import PAIR_MEAN, PAIR_STD
from ..common.data.pair_classification import data, dataloader, set_size
from ..common.models.classifier_swin import model
from ..common.models.trunks import paired_swin
from ..common.optim import optimizer
from ..common.schedule import cosine
from ..common.train import train

data.update(train="???", val="???")
dataloader.train.dataset.names = "${data.train}"
dataloader.test.dataset.names = "${data.val}"
set_size(224)

model.backbone.net = paired_swin("swin_b")
model.backbone.net.out_indices = (3,)
model.update(num_classes="auto", pixel_mean=PAIR_MEAN, pixel_std=PAIR_STD)

optimizer.lr = 1e-4
optimizer.weight_decay = 0.05

lr_multiplier = cosine(warmup=0.1)
train.max_iter = 2000
train.clip_grad_norm = 5.0
train.precision = "bf16"
train.init_checkpoint = "timm://swin_base_patch4_window7_224.ms_in22k"
train.eval_period = train.checkpointer.period = 200
train.best_metric = "classification/balanced_accuracy"
