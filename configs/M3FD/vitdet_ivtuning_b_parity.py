"""vitdet_ivtuning_b as the released code behaves, with the published 3,658,372 trained backbone parameters.

No zero-init, infrared embedding at random, the frozen trunk in training mode (its drop-path stays on).
"""

from .vitdet_ivtuning_b import data, dataloader, lr_multiplier, model, optimizer, train

_net = model.backbone.net
_net.tuner.preset = "vitdet_v1"
_net.stem.update(zero_init=False, from_visible=False)
_net.frozen_eval = False
train.output_dir = "output/M3FD/vitdet_ivtuning_b_parity"
