"""Mona on Swin-L, VOC2007 as one of 20 classes for each image: 100 epochs of 5,011 images.

The recipe is that of Flowers102/mona_swin_l.py; here the paper's rate is that of all other methods.
Its baselines are this file with ``method=<Name>``: Full, BitFit, NormTuning, Partial, Adapter, LoRA,
AdaptFormer; and with ``model.backbone.net.tuner=Frozen``.
"""

from ..Flowers102.mona_swin_l import data, dataloader, lr_multiplier, model, optimizer, train

model.num_classes = 20
dataloader.train.dataset.names = "voc2007cls_train"
dataloader.test.dataset.names = "voc2007cls_test"

optimizer.lr = 1.5625e-5

train.max_iter = 31_319
train.eval_period = 314
train.checkpointer.period = 3132
