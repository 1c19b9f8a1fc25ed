"""Classes of your own images: Mona on Swin-B at 224 px. All settings are our choice.

Name two folders with one folder of images per class, data.train=/data/mine/train data.val=/data/mine/val, or
two lists of lines `path class`: data.train=train.txt data.val=val.txt data.images=/data/mine;
docs/own_data.md.
"""

from ..common.data.classification import data, dataloader
from ..common.models.classifier_swin import model
from ..common.models.trunks import visible_swin
from ..common.optim import optimizer
from ..common.schedule import cosine
from ..common.train import train

data.update(train="???", val="???")
dataloader.train.dataset.names = "${data.train}"
dataloader.test.dataset.names = "${data.val}"
dataloader.evaluator.topk = (1,)

model.backbone.net = visible_swin("swin_b", drop_path_rate=0.2, out_indices=(3,))
model.num_classes = "auto"

optimizer.lr = 1e-4
optimizer.weight_decay = 0.05

lr_multiplier = cosine(warmup=0.1)
train.max_iter = 2000
train.clip_grad_norm = 5.0
train.precision = "bf16"
train.init_checkpoint = "timm://swin_base_patch4_window7_224.ms_in22k"
train.eval_period = train.checkpointer.period = 200
train.best_metric = "classification/top1"
