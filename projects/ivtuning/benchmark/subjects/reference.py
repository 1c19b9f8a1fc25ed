"""What IV-tuning is measured against: its modules as they are defined, on explicit attention.

Explicit attention stores the (N, N) scores and, in ViTDet, adds an (N, N) bias of the decomposed relative
positions, as detectron2 and timm without its fused kernel do. The modules compute their own forward passes,
one after the other.
"""

from __future__ import annotations

import copy

from ...backbones.trunk import Trunk
from ...tuning import IVTuning


def plain(trunk: Trunk) -> Trunk:
    """A copy of `trunk`, tuned by IV-tuning or by nothing, that computes the same the plain way."""
    trunk = explicit(copy.deepcopy(trunk))
    if isinstance(trunk.tuner, IVTuning):
        trunk.tuner.set_backend("plain")
    for block in trunk.blocks:
        block.activation_checkpointing = None
    return trunk


def explicit(trunk: Trunk) -> Trunk:
    """Make all attention in `trunk` explicit, in place."""
    trunk.set_attn_backend("plain")
    return trunk
