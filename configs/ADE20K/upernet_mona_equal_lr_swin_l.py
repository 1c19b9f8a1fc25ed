"""Mona on Swin-L, UPerNet, ADE20K, with the learning rate and drop path that the other methods got."""

from .upernet_mona_swin_l import data, dataloader, lr_multiplier, model, optimizer, train

model.backbone.net.drop_path_rate = 0.3
optimizer.lr = 6e-5
train.output_dir = "output/ADE20K/upernet_mona_equal_lr_swin_l"
