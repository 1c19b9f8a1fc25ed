"""Mona on Swin-L, Oxford-IIIT Pet: as Flowers102/mona_swin_l.py, 100 epochs of 3,680 images."""

from ..Flowers102.mona_swin_l import data, dataloader, lr_multiplier, model, optimizer, train

model.num_classes = 37
dataloader.train.dataset.names = "pets_train"
dataloader.test.dataset.names = "pets_test"

train.max_iter = 23_000
train.output_dir = "output/Pets/mona_swin_l"
train.eval_period = 230
train.checkpointer.period = 2300
