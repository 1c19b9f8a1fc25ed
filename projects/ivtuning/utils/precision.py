"""What half precision cannot hold: coordinates, costs and sums over many scores."""

from __future__ import annotations

import torch
from torch import Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """`x` in float32, or unchanged where it is float64."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
