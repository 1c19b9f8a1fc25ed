"""AdaptFormer (arXiv 2205.13535) as a baseline of the Mona paper; see docs/method.md 3."""

from __future__ import annotations

from torch import Tensor

from .adapter import Bottleneck
from .base import GELU_INSIDE, BlockAdapters, Tuner
from .options import need_number, need_rate, need_whole


class AdaptFormerBranch(BlockAdapters):
    """A bottleneck parallel to the MLP. It reads the MLP's input before the norm, and has no drop-path."""

    def __init__(self, branch: Bottleneck, scale: float):
        super().__init__()
        self.branch, self.scale = branch, scale

    def after_mlp(self, y: Tensor, x: Tensor, prompt: Tensor) -> Tensor:
        return y + self.scale * self.branch(x)


class AdaptFormer(Tuner):
    """AdaptFormer: one scaled bottleneck parallel to every MLP; the trunk is frozen. 129 C + 64 a block.

    Args:
        hidden_dim: width of the bottleneck.
        dropout: rate inside, before the up-projection.
        scale: fixed factor of the branch.
        zero_init: start as the identity. The original does; the Mona paper's code does not.

    Raises:
        UserError: an option of another kind or range.
    """

    unmergeable = GELU_INSIDE

    def __init__(
        self, hidden_dim: int = 64, dropout: float = 0.1, scale: float = 0.1, zero_init: bool = False
    ):
        super().__init__()
        need_whole("tuner.hidden_dim", hidden_dim)
        need_rate("tuner.dropout", dropout)
        need_number("tuner.scale", scale)
        self.options: dict = dict(hidden_dim=hidden_dim, dropout=dropout)
        self.scale, self.zero_init = scale, zero_init

    def meaning(self) -> dict[str, object]:
        return {"scale": self.scale}

    def build_adapters(self, width: int) -> AdaptFormerBranch:
        return AdaptFormerBranch(Bottleneck(width, **self.options), self.scale)
