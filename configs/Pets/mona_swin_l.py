"""Mona on Swin-L, Oxford-IIIT Pet: 100 epochs of 3,680 images.

Recipe, rate of the other methods and baselines are those of Flowers102/mona_swin_l.py.
"""

from ..Flowers102.mona_swin_l import data, dataloader, lr_multiplier, model, optimizer, train

model.num_classes = 37
dataloader.train.dataset.names = "pets_train"
dataloader.test.dataset.names = "pets_test"

train.max_iter = 23_000
train.eval_period = 230
train.checkpointer.period = 2300
