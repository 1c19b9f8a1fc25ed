"""Seconds long: a few steps of IV-tuning from a random trunk, to see that everything runs."""

from ..synthetic.ivtuning import data, dataloader, lr_multiplier, model, optimizer, train

train.init_checkpoint = ""
train.max_iter = 10
train.log_period = 5
dataloader.train.total_batch_size = 2
