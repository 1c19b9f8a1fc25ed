"""Mona on Swin-L, Oxford-IIIT Pet, with the rate of all other methods.

The paper's other baselines are this file with ``model.backbone.net.tuner=<Name>``: Frozen, BitFit,
NormTuning, Partial, Adapter, LoRA, AdaptFormer; give each a ``train.output_dir`` of its own.
"""

from .mona_swin_l import data, dataloader, lr_multiplier, model, optimizer, train

optimizer.lr = 1.5625e-5
train.output_dir = "output/Pets/mona_equal_lr_swin_l"
