"""Opens the blocks of timm's ViT, EVA and Swin at the sites of :mod:`ivtuning.tuning.base`, in place."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..errors import UserError
from ..tuning import Tuner
from ..tuning.base import BlockAdapters, PassAdapters
from ..tuning.sites import PatchTokenAdapters, ScaledBlock, SitedBlock


class Pass:
    """What the blocks share in one forward pass, set by the patch embedding and read by every block."""

    def __init__(self, tuner: Tuner, prefix: int):
        self.tuner, self.prefix = tuner, prefix
        self.infrared: Tensor | None = None
        self.size = (0, 0)
        self.prompt: Tensor | None = None
        self.added: PassAdapters | None = None
        self.adapters: dict[int, BlockAdapters | None] = {}  # of the blocks that see the present prompt
        self.checkpointing = False  # whether blocks are recomputed in the backward pass

    def end(self) -> None:
        """Drop what would keep the graph alive."""
        self.infrared = self.prompt = self.added = None
        self.adapters = {}
        self.checkpointing = False


class Opened(SitedBlock):
    """Mixin of a block that :func:`attach` opened.

    Attributes:
        shared: the state of the forward pass.
        adapters: what the tuner adds here, or None.
        renews_prompt: the prompt becomes this block's input (docs/method.md 1.5).
        index: the block's place in the model.
        sharing: indices of all blocks that see the same prompt, this one included.
        original: the block's class in timm.
    """

    shared: Pass
    adapters: BlockAdapters | None
    renews_prompt: bool
    index: int
    sharing: range
    original: type[nn.Module]

    def forward(self, x: Tensor, **options: Any) -> Tensor:
        adapters = self._prepare(x)
        prompt = None if adapters is None else self.shared.prompt
        if self.shared.checkpointing and torch.is_grad_enabled():
            # What belongs to this pass goes along: until the backward pass others may follow, of other sizes.
            return checkpoint(self.run, x, adapters, prompt, use_reentrant=False, **options)
        return self.run(x, adapters, prompt, **options)

    def _prepare(self, x: Tensor) -> Any:
        """What acts on this block in this forward pass, or None. It renews the prompt."""
        shared = self.shared
        if self.adapters is None or not shared.tuner.enabled:
            return None
        patches = x if x.dim() == 4 else x[:, shared.prefix :].unflatten(1, shared.size)
        if self.renews_prompt or shared.prompt is None:
            shared.prompt = patches
        adapters = self.adapters
        if shared.added is not None:
            if self.index == self.sharing.start:
                prepared = shared.added.seeing(shared.prompt, self.sharing)
                shared.adapters = dict(zip(self.sharing, prepared, strict=True))
            adapters = shared.adapters[self.index]
        if x.dim() == 3:
            return PatchTokenAdapters(adapters, shared.size, shared.prefix)
        return adapters

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        # The class has no name in any module; it is made anew of timm's.
        return _new_block, (self.original,), self.__getstate__()


class OpenedEva(Opened, ScaledBlock):
    pass


class OpenedSwin(Opened):
    def attend(self, x: Tensor, **options: Tensor) -> Tensor:
        return self._attn(x)

    def ls1(self, y: Tensor) -> Tensor:
        return y

    ls2 = ls1


def stages_of(model: nn.Module) -> list[list[nn.Module]]:
    """The model's blocks by stage: one stage for a ViT or EVA, the layers of a Swin.

    Raises:
        UserError: a model whose blocks are of another kind.
    """
    name = type(model).__name__
    layers = getattr(model, "layers", None)
    if layers is not None and all(hasattr(layer, "blocks") for layer in layers):
        stages = [list(layer.blocks) for layer in layers]
    else:
        stages = [list(getattr(model, "blocks", ()))]
    blocks = [block for stage in stages for block in stage]
    odd = next((type(b).__name__ for b in blocks if _mixin(type(b)) is None), None)
    if not blocks or odd or not hasattr(model, "patch_embed"):
        what = f"a {odd}" if odd else "no block"
        raise UserError(
            f"{name} has {what} where ViT, EVA and Swin of timm have theirs: give a model of these, from "
            "timm.create_model without features_only"
        )
    drop = getattr(model, "patch_drop", None)
    if drop is not None and not isinstance(drop, nn.Identity):
        raise UserError(
            f"{name} drops patches, so adapters would see no map: create it with patch_drop_rate=0"
        )
    return stages


def open_blocks(model: nn.Module, shared: Pass) -> None:
    """Give every block of `model` what `shared.tuner` adds to it; the tuner builds it here.

    Raises:
        UserError: see :func:`stages_of`; or the model is open already, or in half precision; nothing has
            changed then.
    """
    stages = stages_of(model)
    if any(isinstance(block, Opened) for stage in stages for block in stage):
        raise UserError("the model is attached already: call unload() first, or create it anew")
    if half := next((p.dtype for p in model.parameters() if p.dtype.itemsize < 4), None):
        raise UserError(
            f"the model's weights are {str(half).removeprefix('torch.')}, too coarse for training: give them "
            "in float32, by model.float(), and run the model under torch.autocast"
        )
    widths = [block.norm1.weight.numel() for stage in stages for block in stage]
    shared.tuner.attach(widths)
    adapters = shared.tuner.blocks or [None] * len(widths)
    index = 0
    for number, stage in enumerate(stages):
        for position, block in enumerate(stage):
            block.__class__ = opened_class(type(block))  # type: ignore[arg-type]
            block.shared = shared
            # Every block of a ViT after the first takes its own input, as does a stage of a Swin.
            block.renews_prompt = position > 0 if len(stages) == 1 else number > 0 and position == 0
            start, count = (index, 1) if len(stages) == 1 else (index - position, len(stage))
            block.index, block.sharing = index, range(start, start + count)
            # Not registered: the adapters belong to the tuner, and the model's names stay.
            object.__setattr__(block, "adapters", adapters[index])
            index += 1
            if getattr(block.attn, "q_bias", None) is not None:
                # Otherwise timm does not call the layer `qkv`, where LoRA is, but uses its weight.
                block.attn.qkv_bias_separate = True


def close_block(block: nn.Module) -> None:
    """Make `block` timm's own again."""
    block.__class__ = block.original
    for name in ("shared", "adapters", "renews_prompt", "index", "sharing"):
        block.__dict__.pop(name)


def _mixin(kind: type) -> type[Opened] | None:
    from timm.models import eva, swin_transformer, vision_transformer

    if issubclass(kind, Opened):
        kind = kind.original
    return {
        vision_transformer.Block: Opened,
        eva.EvaBlock: OpenedEva,
        swin_transformer.SwinTransformerBlock: OpenedSwin,
    }.get(kind)


@functools.cache
def opened_class(kind: type[nn.Module]) -> type[nn.Module]:
    """The class of a block of timm's `kind` with open sites."""
    return type(f"Opened{kind.__name__}", (_mixin(kind), kind), {"original": kind})


def _new_block(kind: Any) -> nn.Module:
    """An opened block of timm's `kind` without content, for copies and pickles."""
    opened: Any = opened_class(kind)
    return opened.__new__(opened)
