"""What a tuning method is: modules at a block's sites, and a choice of trunk parameters.

A transformer block has four sites, in this order::

    y = on_attention(Attention(norm1(x)), x) # site 1
    x = after_attention(x + y)               # site 2
    y = on_mlp(MLP(norm2(x)), x)             # site 3
    x = after_mlp(x + y, x)                  # site 4

A method subclasses :class:`Tuner`, builds one :class:`BlockAdapters` for each block and, where it trains
parts of the trunk itself, selects them. Nothing is ever chosen by a substring of a name.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import Tensor, nn

from ..errors import UserError

# Why a method's modules cannot become weights of the base.
GELU_INSIDE = "its bottleneck holds a non-linearity (GELU)"
CONVOLUTION_INSIDE = "its adapters hold convolutions and a non-linearity (GELU)"


class BlockAdapters(nn.Module):
    """The modules added to one block. Every site is the identity unless a method overrides it.

    All tensors are maps of patch tokens, (B, H, W, C) with C the block's width. No class token reaches a
    site. `prompt` is what IV-tuning carries from block to block (docs/method.md 1.5); others ignore it.
    """

    def on_attention(self, y: Tensor, x: Tensor) -> Tensor:
        """Site 1, on the attention's output `y` before drop-path and residual; `x`: its input before norm."""
        return y

    def after_attention(self, x: Tensor, prompt: Tensor) -> Tensor:
        """Site 2, on the residual stream after the attention is added."""
        return x

    def on_mlp(self, y: Tensor, x: Tensor) -> Tensor:
        """Site 3, on the MLP's output `y` before drop-path and residual; `x` is its input before the norm."""
        return y

    def after_mlp(self, y: Tensor, x: Tensor, prompt: Tensor) -> Tensor:
        """Site 4, on the residual stream `y` after the MLP is added; `x` is the stream before it."""
        return y

    def reset_to_identity(self) -> None:
        """Make every site the identity, bit for bit: by default, let every child reset itself.

        Raises:
            NotImplementedError: a child has no such method.
        """
        for name, child in self.named_children():
            if not hasattr(child, "reset_to_identity"):
                raise NotImplementedError(f"{type(self).__name__}.{name} has no reset_to_identity()")
            child.reset_to_identity()


class TwoAdapters(BlockAdapters):
    """Base of the methods that add two adapters, with weights of their own, to every block."""

    def __init__(self, adapter1: nn.Module, adapter2: nn.Module):
        super().__init__()
        self.adapter1, self.adapter2 = adapter1, adapter2


class PassAdapters:
    """What a tuner adds to the blocks in one forward pass of the trunk.

    Args:
        blocks: the adapters of every block; None where nothing is added.
    """

    def __init__(self, blocks: Sequence[BlockAdapters | None]):
        self.blocks = blocks

    def seeing(self, prompt: Tensor, indices: Sequence[int]) -> list[BlockAdapters | None]:
        """The adapters of the blocks `indices`, all of which see `prompt`, (B, H, W, C).

        A method that uses the prompt can prepare it here, once for all of these blocks.
        """
        return [self.blocks[i] for i in indices]


def refuse_attached(plugin: nn.Module) -> None:
    """Raise UserError where the tuner or stem `plugin` is part of a model already.

    It would lose the modules that it built for that model, and what they learned.
    """
    if plugin.attached:
        name = type(plugin).__name__
        raise UserError(f"this {name} is attached to a model already: give a new one, as {name}(...)")


class Tuner(nn.Module):
    """A tuning method. Subclasses override :meth:`build_adapters` and/or :meth:`select`.

    Attributes:
        attached: True after :meth:`attach`; each model needs a tuner of its own.
        enabled: False inside :meth:`ivtuning.backbones.trunk.Trunk.disable_adapters`.
        zero_init: whether :meth:`attach` makes what it built the identity.
        needs: images that the stem must use for the method to make sense, of "visible" and "infrared".
        unmergeable: why :meth:`merge` is refused, in words that follow the method's name and a colon.
        revision: counts up when the same tensors come to mean another function. An adapter file of another
            revision is refused.
    """

    attached = False
    enabled = True
    zero_init = False
    needs: tuple[str, ...] = ()
    unmergeable = "what it adds to a block is no linear map"
    revision = 1

    def meaning(self) -> dict[str, object]:
        """Options that change what is computed but no tensor: an adapter loads where they are equal."""
        return {}

    def attach(self, widths: Sequence[int]) -> None:
        """Build the added modules; `widths` holds the channel width of every block in use, in order.

        Raises:
            UserError: it is attached already.
        """
        refuse_attached(self)
        adapters = [self.build_adapters(width) for width in widths]
        self.blocks = nn.ModuleList(adapters) if all(a is not None for a in adapters) else None
        if self.zero_init:
            self.reset_to_identity()
        self.depth = len(widths)
        self.attached = True

    def build_adapters(self, width: int) -> BlockAdapters | None:
        """The modules added to one block of `width` channels; None where the method adds nothing."""
        return None

    def served(self, trunk: nn.Module) -> list[nn.Module]:
        """The blocks of `trunk` that :meth:`attach` built for, in order: all up to the last one in use."""
        return list(trunk.blocks)[: self.depth]

    def begin(self, x: Tensor) -> PassAdapters:
        """What acts on the blocks in the forward pass whose first map is `x`, (B, H, W, C).

        A method can compute here what depends on its parameters alone.
        """
        return PassAdapters(self.blocks)

    def select(self, trunk: nn.Module) -> Iterable[nn.Parameter]:
        """The trunk's own parameters that train. None of them, unless a method says otherwise."""
        return ()

    def register_hooks(self, trunk: nn.Module) -> None:
        """Change the trunk where there is no site, by forward hooks. Called once, after :meth:`attach`."""

    def remove_hooks(self) -> None:
        """Undo :meth:`register_hooks`."""

    def enable(self, on: bool) -> None:
        """Switch what was added on or off, and set :attr:`enabled`."""
        self.enabled = on

    def reset_to_identity(self) -> None:
        """Make what was added the identity, so that the trunk computes its frozen base."""
        for adapters in self.blocks or ():
            adapters.reset_to_identity()

    def merge(self, trunk: nn.Module) -> None:
        """Write what was added into the trunk's weights, as far as the method can.

        Raises:
            UserError: it cannot; the message says why.
        """
        raise UserError(
            f"{type(self).__name__} cannot be merged into the base: {self.unmergeable}; deploy the base with "
            "the adapter file (--adapter)"
        )

    def check_trainable(self) -> None:
        """Raise UserError where the model cannot train as it is, such as after :meth:`merge`."""

    def check_loadable(self) -> None:
        """Raise UserError where new weights would not fit the trunk as it is, such as after :meth:`merge`."""

    def fold(self, trunk: nn.Module) -> None:
        """Replace what was added by a form for inference alone that computes the same, where there is one.

        The model is in evaluation mode. It can neither train nor be saved afterwards.
        """

    def unmerge(self, trunk: nn.Module) -> None:
        """Undo :meth:`merge`."""
        raise UserError(f"{type(self).__name__} is never merged: there is nothing to undo")

    def mark_merged(self) -> None:
        """Note that the trunk's weights already hold what was added, as after :meth:`merge`."""
        raise UserError(f"{type(self).__name__} is never merged: there is nothing to undo")


def set_frozen_eval(module: nn.Module) -> None:
    """Put every fully frozen submodule of `module` into eval mode."""
    if not any(p.requires_grad for p in module.parameters()):
        module.eval()
        return
    for child in module.children():
        if next(child.parameters(), None) is not None:
            set_frozen_eval(child)
