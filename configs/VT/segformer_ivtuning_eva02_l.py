"""SegFormer on EVA-02-L with IV-tuning, salient objects, trained on VT5000 (2,500 pairs), 384 px.

Published are, in percent, S-measures of 92.3, 94.8 and 93.0 and MAEs of 2.2, 1.3 and 1.9 on VT821, VT1000 and
the 2,500 test pairs of VT5000, with CPNet's decoder. Rate, batch, losses and epochs are the released code's;
its losses at four scales and its clamped gradients are not here. The other test sets are
dataloader.test.dataset.names=vt821_seg_test and vt1000_seg_test.
"""

from detectron2.config import LazyCall as L

from ivtuning.heads.segmentation.losses import CrossEntropy, IoU, Sum

from ..common.data.salient import data, dataloader
from ..common.models.segformer_eva02 import WEIGHTS, model
from ..common.optim import optimizer
from ..common.schedule import step
from ..common.train import train

model.backbone.net.img_size = 384
model.sem_seg_head.num_classes = 2
# Of two classes, cross-entropy is the binary one.
model.sem_seg_head.loss = L(Sum)(losses=[L(CrossEntropy)(), L(IoU)(classes=[1])])

dataloader.train.total_batch_size = 8
optimizer.lr = 5e-5
optimizer.weight_decay = 0.0

train.max_iter = 62_500  # 200 epochs, x0.1 after 100
lr_multiplier = step(milestones=(0.5,), warmup=250)
train.clip_grad_norm = 1.0
train.precision = "bf16"
train.init_checkpoint = WEIGHTS
train.eval_period = train.checkpointer.period = 6250
train.best_metric = "saliency/S"
