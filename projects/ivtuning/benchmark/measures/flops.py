"""Counted arithmetic of a training step, and the machine's rate."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...backbones.trunk import Trunk
from ...tuning import Frozen, Full, IVTuning
from ...tuning.stems import PromptStem, Stem, VisibleOnly
from ...utils.arithmetic import FlopCounter
from ..subjects.reference import explicit, plain
from ..subjects.trunks import build
from .timing import interleaved

# Side of the square matrices whose product measures the machine's rate; large enough to keep it all busy.
SIDES = {"cuda": 8192, "cpu": 2048}


class Shift(Stem):
    """The visible image plus one trained vector, so that the gradient runs through all of a frozen trunk."""

    def attach(self, embed: nn.Module) -> None:
        self.shift = nn.Parameter(torch.zeros(embed.proj.out_channels))

    def forward(self, visible: Tensor, infrared: Tensor | None, embed: nn.Module) -> tuple[Tensor, None]:
        return embed(visible) + self.shift, None


def frozen_trunk(name: str, depth: int | None = None, device: torch.device | str = "cpu") -> Trunk:
    """The least that any adapter method computes: the frozen trunk, with a gradient to its first block."""
    return build(name, Shift(), Frozen(), depth, device=device)


def floor(name: str, size: tuple[int, int], depth: int | None = None) -> dict[str, float]:
    """FLOPs of forward and backward pass of one image, with explicit attention, and their ratio.

    They are counted on the meta device, without computing anything. A frozen trunk needs no weight gradients;
    the products inside attention have no weights, so freezing saves nothing there.

    Returns:
        "frozen" and "full" FLOPs, and "ratio" of the two.
    """
    frozen = count(explicit(frozen_trunk(name, depth, "meta")), size)
    full = count(explicit(build(name, VisibleOnly(), Full(), depth, device="meta")), size)
    return {"frozen": frozen, "full": full, "ratio": frozen / full}


def count_iv(name: str, size: tuple[int, int], depth: int | None = None) -> int:
    """FLOPs of IV-tuning's plain modules, forward and backward, for one pair; nothing is recomputed."""
    return count(plain(build(name, PromptStem(), IVTuning(), depth, device="meta")), size)


def rate(device: torch.device, dtype: torch.dtype) -> float:
    """The machine's rate: FLOPs per second of one large matrix product, the best of nine."""
    side = SIDES[device.type]
    a, b = torch.randn(2, side, side, device=device).to(dtype)
    times = interleaved({"product": lambda: a @ b}, 9, "matrix product")
    return 2 * side**3 / min(times["product"])


def count(trunk: Trunk, size: tuple[int, int]) -> int:
    """FLOPs of matrix products and convolutions, forward and backward, for one image or pair."""
    device = next(trunk.parameters()).device
    with FlopCounter() as counter:
        energy(trunk(torch.empty(1, 6, *size, device=device))).backward()
    return counter.total()


def energy(outputs: dict[str, Tensor]) -> Tensor:
    """The sum of squares of all outputs, which serves as the loss of every measurement."""
    return sum(output.float().square().sum() for output in outputs.values())
