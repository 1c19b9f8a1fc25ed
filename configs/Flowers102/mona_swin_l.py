"""Mona (arXiv 2408.08345) on Swin-L, Flowers-102: 100 epochs of 2,040 images, with the rate of its authors.

That rate is twice that of all other methods. Mona with theirs is this file with ``optimizer.lr=1.5625e-5``,
and the paper's baselines are that with ``method=<Name>``: Full, BitFit, NormTuning, Partial, Adapter, LoRA,
AdaptFormer; or with ``model.backbone.net.tuner=Frozen``. Norms, biases and position tables are not decayed,
nor are Mona's two scale vectors, which their code does decay. bf16 stands for their fp16 with loss scaling
(train.precision=fp16, on CUDA). Evaluated every epoch; best and last weights are kept.
"""

from ..common.data.classification import data, dataloader
from ..common.models.classifier_swin import model
from ..common.optim import optimizer
from ..common.schedule import cosine
from ..common.train import train

model.num_classes = 102
dataloader.train.dataset.names = "flowers102_train"
dataloader.test.dataset.names = "flowers102_test"

optimizer.lr = 3.125e-5
optimizer.weight_decay = 0.05

lr_multiplier = cosine(warmup=0.2, end=0.01, warmup_factor=0.001)
train.max_iter = 12_750
train.clip_grad_norm = 5.0
train.precision = "bf16"
train.init_checkpoint = "timm://swin_large_patch4_window7_224.ms_in22k"
train.eval_period = 128
train.checkpointer.period = 1275
train.best_metric = "classification/top1"
