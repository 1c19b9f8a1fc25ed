"""LoRA (arXiv 2106.09685) on the attention's projections, with the Mona paper's defaults."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..errors import UserError
from ..utils.precision import without_autocast
from .base import Tuner
from .options import need_number, need_whole

TARGETS = ("q", "k", "v")
MERGED = "LoRA is merged into the base: call unmerge_adapters() first, or unmerge() of a timm model"


class LowRank(nn.Module):
    """``scaling * B A x``, added to the outputs `rows` of a linear layer. 2 r C parameters.

    `lora_A` (r, C) starts Kaiming-uniform and `lora_B` (C, r) at zero, so nothing changes at first.
    """

    def __init__(self, channels: int, rank: int, scaling: float):
        super().__init__()
        self.lora_A = nn.Parameter(torch.empty(rank, channels))
        self.lora_B = nn.Parameter(torch.zeros(channels, rank))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
        self.scaling = scaling
        self.rows = slice(None)
        self.active = True
        # The rows of the base as they were before merging: subtracting would not restore them bit by bit. No
        # buffer, which would follow the model into half precision.
        self.unmerged: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.linear(x, self.lora_A), self.lora_B) * self.scaling

    def weight(self) -> Tensor:
        """The update of the layer's weight, (C, C)."""
        return self.lora_B @ self.lora_A * self.scaling

    def hook(self, layer: nn.Linear, args: tuple[Tensor], out: Tensor) -> None:
        """Forward hook of the layer. In place: a linear layer's backward pass does not read its output."""
        if self.active:
            out[..., self.rows].add_(self(args[0]))


class LoRA(Tuner):
    """LoRA: low-rank updates of the query and value projections; the trunk is frozen. 4 r C a block.

    It is the only method that can be merged: see :meth:`ivtuning.backbones.trunk.Trunk.merge_adapters`.

    Args:
        rank: r, of each target.
        alpha: the update's scale is alpha / rank; the Mona paper's code has 1 / 64.
        targets: which of "q", "k", "v" are updated.

    Raises:
        UserError: a rank below 1, an alpha that is not a number, or other targets.
    """

    def __init__(self, rank: int = 64, alpha: float = 1.0, targets: Sequence[str] = ("q", "v")):
        super().__init__()
        need_whole("tuner.rank", rank)
        need_number("tuner.alpha", alpha)
        unknown = [t for t in targets if t not in TARGETS]
        if unknown or not targets:
            raise UserError(f"tuner.targets={list(targets)}: give some of {', '.join(TARGETS)}, as [q,v]")
        self.rank, self.alpha, self.scaling, self.targets = rank, alpha, alpha / rank, sorted(set(targets))
        self.merged = False
        self.handles: list[RemovableHandle] = []

    def meaning(self) -> dict[str, object]:
        return {"alpha": self.alpha, "targets": self.targets}

    def attach(self, widths: Sequence[int]) -> None:
        super().attach(widths)
        self.updates = nn.ModuleList(
            nn.ModuleDict({t: LowRank(width, self.rank, self.scaling) for t in self.targets})
            for width in widths
        )

    def register_hooks(self, trunk: nn.Module) -> None:
        # Not on the stem, which is not merged.
        guarded = trunk, *(child for name, child in trunk.named_children() if name != "stem")
        self.handles = [m.register_load_state_dict_pre_hook(self._before_loading) for m in guarded]
        for block, updates in zip(self.served(trunk), self.updates, strict=True):
            for target, update in updates.items():
                layer, update.rows = _projection(block.attn, target)
                shape = layer.weight[update.rows].shape
                if shape != update.weight().shape:
                    raise UserError(
                        f"LoRA needs projections as wide as the block, but {target} has {tuple(shape)}: give "
                        "another tuner, or other targets"
                    )
                self.handles.append(layer.register_forward_hook(update.hook))

    def remove_hooks(self) -> None:
        for handle in self.handles:
            handle.remove()

    def select(self, trunk: nn.Module) -> Iterable[nn.Parameter]:
        if self.merged:
            raise UserError(MERGED)
        return ()

    def enable(self, on: bool) -> None:
        super().enable(on)
        for update in self._updates():
            update.active = on and not self.merged

    def reset_to_identity(self) -> None:
        for update in self._updates():
            nn.init.zeros_(update.lora_B)

    def check_trainable(self) -> None:
        if self.merged:
            raise UserError(f"a merged LoRA does not train: {MERGED}")

    def train(self, mode: bool = True) -> LoRA:
        if mode:
            self.check_trainable()
        return super().train(mode)

    def check_loadable(self) -> None:
        if self.merged:  # a clean base would stay without LoRA, or have it subtracted
            raise UserError(MERGED)

    def _before_loading(self, *_: object) -> None:
        self.check_loadable()

    def merge(self, trunk: nn.Module) -> None:
        if self.training:
            raise UserError("merging LoRA is for inference: call model.eval() first")
        if not all(p.isfinite().all() for p in self.parameters()):
            raise UserError("LoRA holds infinite or NaN values: merging would ruin the base")
        if any(layer.weight.dtype.itemsize < 4 for layer, _, _ in self._projections(trunk)):
            raise UserError("weights in half precision would round LoRA away: merge in float32, convert then")
        if not self.merged:
            with torch.no_grad():
                for layer, rows, update in self._projections(trunk):
                    update.unmerged = layer.weight[rows].clone()
                    with without_autocast(layer.weight.device.type):
                        layer.weight[rows] += update.weight()
            self._set_merged(True)

    def fold(self, trunk: nn.Module) -> None:
        self.merge(trunk)
        self.remove_hooks()
        for update in self._updates():
            update.unmerged = None

    def unmerge(self, trunk: nn.Module) -> None:
        """Undo :meth:`merge`, bit by bit; after :meth:`mark_merged` up to rounding."""
        if self.merged:
            with torch.no_grad():
                for layer, rows, update in self._projections(trunk):
                    if update.unmerged is not None:
                        layer.weight[rows] = update.unmerged.to(layer.weight)
                    else:
                        with without_autocast(layer.weight.device.type):
                            layer.weight[rows] -= update.weight()
                    update.unmerged = None
            self._set_merged(False)

    def _projections(self, trunk: nn.Module) -> Iterator[tuple[nn.Linear, slice, LowRank]]:
        for block, updates in zip(self.served(trunk), self.updates, strict=True):
            for target, update in updates.items():
                yield *_projection(block.attn, target), update

    def mark_merged(self) -> None:
        self._set_merged(True)

    def _set_merged(self, merged: bool) -> None:
        self.merged = merged
        for update in self._updates():
            update.active = not merged

    def _updates(self) -> Iterable[LowRank]:
        return (update for updates in self.updates for update in updates.values())


def _projection(attention: nn.Module, target: str) -> tuple[nn.Linear, slice]:
    """The layer that computes `target`, and its rows there: part of a fused `qkv`, or all of `q_proj`."""
    fused = getattr(attention, "qkv", None)
    if fused is None:
        return getattr(attention, f"{target}_proj"), slice(None)
    width = fused.out_features // 3
    start = TARGETS.index(target) * width
    return fused, slice(start, start + width)
