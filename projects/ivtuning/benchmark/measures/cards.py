"""What GPUs can do at most, by their vendors' data sheets; a step's least time follows from it."""

from __future__ import annotations

from typing import NamedTuple

from ...errors import UserError, nearest


class Card(NamedTuple):
    """A card's nominal rates, dense and without sparsity.

    Attributes:
        title: the full name.
        bandwidth: of its memory, in bytes a second.
        fp32, bf16: FLOPs a second. Those of fp32 are the plain ones, without TF32.
    """

    title: str
    bandwidth: float
    fp32: float
    bf16: float

    def seconds(self, flops: float, moved: float, dtype: str) -> float:
        """The roofline's time for `flops` in "fp32" or "bf16" and `moved` bytes: the longer of the two."""
        return max(flops / getattr(self, dtype), moved / self.bandwidth)


# From NVIDIA's data sheets of each card; the H100 and the A100 are the SXM ones, the A100 that of 80 GB. The
# RTX cards' rates are those of the architectures' white papers, with sums in fp32.
CARDS = {
    "h200": Card("NVIDIA H200", 4.8e12, 67e12, 989e12),
    "h100": Card("NVIDIA H100 SXM", 3.35e12, 67e12, 989e12),
    "a100": Card("NVIDIA A100 SXM 80 GB", 2.039e12, 19.5e12, 312e12),
    "l40s": Card("NVIDIA L40S", 0.864e12, 91.6e12, 362e12),
    "rtx4090": Card("NVIDIA GeForce RTX 4090", 1.008e12, 82.6e12, 165.2e12),
    "rtx3090": Card("NVIDIA GeForce RTX 3090", 0.936e12, 35.6e12, 71e12),
}


def find_card(name: str) -> Card:
    """The card called `name`.

    Raises:
        UserError: there is none.
    """
    if name not in CARDS:
        raise UserError(f"no card is called {name!r}{nearest(name, CARDS)}; there are {', '.join(CARDS)}")
    return CARDS[name]
