"""AdamW over ivtuning's parameter groups."""

import torch
from detectron2.config import LazyCall as L

from ivtuning.engine.optim import param_groups

optimizer = L(torch.optim.AdamW)(
    params=L(param_groups)(
        # `model` is set to the model when the optimizer is built.
        lr="${..lr}",
        weight_decay="${..weight_decay}",
        layer_decay=1.0,
        trunk_lr_factor=1.0,
        added_lr_factor=1.0,
    ),
    lr=1e-4,
    betas=(0.9, 0.999),
    weight_decay=0.1,
    # One kernel for hundreds of small tensors, where a GPU otherwise waits for their launches.
    fused=True,
)
