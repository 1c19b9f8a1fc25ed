"""How modules and inputs are filled for golden values, which the papers' released code gave."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def fill(
    module: nn.Module,
    order: list[str],
    amplitude: float = 0.05,
    ones: tuple[str, ...] = ("gamma", "norm.weight"),
) -> None:
    """Fill the k-th of `order` with ``amplitude sin(.37 i + .11 (k + 1))``; +1 where names end in `ones`."""
    parameters = dict(module.named_parameters())
    assert sorted(order) == sorted(parameters)
    for k, name in enumerate(order):
        i = torch.arange(parameters[name].numel(), dtype=torch.float64)
        value = amplitude * torch.sin(0.37 * i + 0.11 * (k + 1))
        if name.endswith(ones):
            value = value + 1
        parameters[name].data = value.view_as(parameters[name]).float()


def wave(*shape: int) -> Tensor:
    """The input: flat index i -> ``sin(.013 i) + .3 cos(.0071 i)``."""
    i = torch.arange(math.prod(shape), dtype=torch.float64)
    return (torch.sin(0.013 * i) + 0.3 * torch.cos(0.0071 * i)).view(shape).float()


def sums(x: Tensor) -> list[float]:
    """Sum, sum of magnitudes, sum of squares, in float64."""
    x = x.detach().double()
    return [x.sum().item(), x.abs().sum().item(), x.square().sum().item()]
