"""The norm of the trunks' blocks, which does not widen a residual stream in half precision."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..utils.precision import is_autocast_on, without_autocast


class StreamNorm(nn.LayerNorm):
    """LayerNorm that gives the type of its input under autocast as well. (..., C) -> the same.

    CUDA's autocast would compute it in float32, and write a map twice as large as the one that it read.
    """

    def forward(self, x: Tensor) -> Tensor:
        kind = x.device.type
        if x.dtype not in (torch.bfloat16, torch.float16) or not is_autocast_on(kind):
            return super().forward(x)
        with without_autocast(kind):
            weight, bias = self.weight.to(x.dtype), self.bias.to(x.dtype)
            return F.layer_norm(x, self.normalized_shape, weight, bias, self.eps)
