"""Opens a transformer block at the four sites of :mod:`.base`, on maps or on sequences of tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from .base import BlockAdapters


class SitedBlock:
    """Mixin of a pre-norm block: `norm1`, `attn`, `ls1`, `drop_path1`, `norm2`, `mlp`, `ls2`, `drop_path2`.

    A block that computes its branches in another way overrides :meth:`attend` or :meth:`feed_forward`.
    """

    def attend(self, x: Tensor, **options: Tensor) -> Tensor:
        """The attention branch without its norm; `options` are what :meth:`run` was given for it."""
        return self.attn(x, **options)

    def feed_forward(self, x: Tensor) -> Tensor:
        """The MLP branch with its norm, before drop-path."""
        return self.ls2(self.mlp(self.norm2(x)))

    def run_mlp(self, x: Tensor) -> Tensor:
        """Call :meth:`feed_forward`, or have its activations recomputed."""
        return self.feed_forward(x)

    def run(
        self, x: Tensor, adapters: BlockAdapters | None, prompt: Tensor | None, **attention: Tensor
    ) -> Tensor:
        """Run the block on `x`, whose shape and type are returned.

        Args:
            adapters, prompt: see :class:`.base.BlockAdapters`.
            attention: what :meth:`attend` needs besides its input.
        """
        y = self.ls1(self.attend(self.norm1(x), **attention))
        if adapters is None:
            x = _add(x, self.drop_path1(y))
            return _add(x, self.drop_path2(self.run_mlp(x)))
        y = adapters.on_attention(y, x)
        x = adapters.after_attention(_add(x, self.drop_path1(y)), prompt).to(x.dtype)
        y = adapters.on_mlp(self.run_mlp(x), x)
        return adapters.after_mlp(_add(x, self.drop_path2(y)), x, prompt).to(x.dtype)


def _add(x: Tensor, y: Tensor) -> Tensor:
    """The sum in the type of `x`: a LayerScale in float32, say, does not widen a stream in bfloat16."""
    return x + (y if torch.promote_types(x.dtype, y.dtype) == x.dtype else y.to(x.dtype))


class ScaledBlock(SitedBlock):
    """Mixin of timm's EVA block, whose LayerScale is two parameters, `gamma_1` and `gamma_2`, or None."""

    def ls1(self, y: Tensor) -> Tensor:
        return y if self.gamma_1 is None else self.gamma_1 * y

    def ls2(self, y: Tensor) -> Tensor:
        return y if self.gamma_2 is None else self.gamma_2 * y


class PatchTokenAdapters:
    """Applies adapters to the patch tokens of a sequence, and leaves its prefix alone.

    The prefix are the class token and register tokens.
    """

    def __init__(self, adapters: BlockAdapters, size: tuple[int, int], prefix: int):
        self.adapters, self.size, self.prefix = adapters, size, prefix

    def modules(self) -> Iterator[nn.Module]:
        """The modules that are applied."""
        return self.adapters.modules()

    def _map(self, x: Tensor) -> Tensor:
        return x[:, self.prefix :].unflatten(1, self.size)

    def _at_patches(self, x: Tensor, site: Callable[..., Tensor], *others: Tensor) -> Tensor:
        before = self._map(x)
        after = site(before, *others)
        if after is before:  # nothing there
            return x
        return torch.cat([x[:, : self.prefix], after.flatten(1, 2)], 1)

    def on_attention(self, y: Tensor, x: Tensor) -> Tensor:
        return self._at_patches(y, self.adapters.on_attention, self._map(x))

    def after_attention(self, x: Tensor, prompt: Tensor) -> Tensor:
        return self._at_patches(x, self.adapters.after_attention, prompt)

    def on_mlp(self, y: Tensor, x: Tensor) -> Tensor:
        return self._at_patches(y, self.adapters.on_mlp, self._map(x))

    def after_mlp(self, y: Tensor, x: Tensor, prompt: Tensor) -> Tensor:
        return self._at_patches(y, self.adapters.after_mlp, self._map(x), prompt)
