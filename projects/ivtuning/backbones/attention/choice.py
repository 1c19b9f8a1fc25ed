"""When plain products are faster than torch's fused attention: in training on a CPU, with few tokens."""

from __future__ import annotations

import torch
from torch import Tensor

from ...utils.precision import product_dtype

# The most tokens for which the fused kernel, forward and backward, takes longer (docs/benchmarks/speed.md).
PRODUCT_TOKENS = {torch.bfloat16: 512, torch.float32: 128}


def products_are_faster(x: Tensor, tokens: int) -> bool:
    """Whether explicit scores take less time than the fused kernel where `x` is attended to.

    Args:
        x: what queries, keys and values are made of, or they themselves.
        tokens: number of keys of a query.

    Returns:
        False without gradients, and in compiled and exported graphs, which must not depend on the machine
        that makes them.
    """
    if torch.compiler.is_compiling() or not (x.is_cpu and torch.is_grad_enabled()):
        return False
    return tokens <= PRODUCT_TOKENS.get(product_dtype(x), 0)
