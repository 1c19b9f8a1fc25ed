"""Methods that add nothing and only choose which of the trunk's own parameters train."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from ..errors import UserError
from .base import Tuner
from .options import need_whole

NORMS = (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, nn.modules.batchnorm._BatchNorm)


class Selection(Tuner):
    """Base of these methods. What they learn is in the trunk's weights already: merging does nothing."""

    def merge(self, trunk: nn.Module) -> None:
        """Nothing to do."""

    def unmerge(self, trunk: nn.Module) -> None:
        """Nothing to do."""

    def mark_merged(self) -> None:
        raise UserError(
            f"{type(self).__name__} added nothing that could be taken out of the weights: use the base's file"
        )


class Frozen(Selection):
    """No part of the trunk trains (the papers' "fixed" baseline)."""


class Full(Selection):
    """Everything trains (full fine-tuning).

    Args:
        freeze_embed: leave the patch embedding as it is (``frozen_stages=1`` of the Mona paper on VOC).
    """

    def __init__(self, freeze_embed: bool = False):
        super().__init__()
        self.freeze_embed = freeze_embed

    def select(self, trunk: nn.Module) -> Iterable[nn.Parameter]:
        return _selected(trunk, trunk.base_parameters(), self.freeze_embed)


class BitFit(Selection):
    """Biases train (arXiv 2106.10199): every parameter that is the `bias` of a module.

    Args:
        rel_pos: train Swin's relative position tables, which are biases of the attention scores, as the Mona
            paper's code does. ViTDet's tables multiply the query and stay frozen.
        freeze_embed: leave the patch embedding as it is.
    """

    def __init__(self, rel_pos: bool = True, freeze_embed: bool = False):
        super().__init__()
        # EVA of timm has the biases of one joint projection apart.
        self.roles = ["bias", "q_bias", "k_bias", "v_bias"]
        if rel_pos:
            self.roles.append("relative_position_bias_table")
        self.freeze_embed = freeze_embed

    def select(self, trunk: nn.Module) -> Iterable[nn.Parameter]:
        values = (getattr(module, role, None) for module in trunk.base_modules() for role in self.roles)
        found = [p for p in values if isinstance(p, nn.Parameter)]
        return _selected(trunk, _some(found, self, "biases"), self.freeze_embed)


class NormTuning(Selection):
    """The norm layers train, those of patch embedding, patch merging and outputs included.

    Args:
        freeze_embed: leave the patch embedding as it is.
    """

    def __init__(self, freeze_embed: bool = False):
        super().__init__()
        self.freeze_embed = freeze_embed

    def select(self, trunk: nn.Module) -> Iterable[nn.Parameter]:
        norms = (m for m in trunk.base_modules() if _is_norm(m))
        found = [p for norm in norms for p in norm.parameters()]
        return _selected(trunk, _some(found, self, "norm layers"), self.freeze_embed)


class Partial(Selection):
    """The last blocks train ("Partial-1" by default); norms after them do not.

    Args:
        n: how many of the blocks in use.

    Raises:
        UserError: the trunk has fewer blocks.
    """

    def __init__(self, n: int = 1):
        super().__init__()
        need_whole("tuner.n", n)
        self.n = n

    def select(self, trunk: nn.Module) -> Iterable[nn.Parameter]:
        blocks = self.served(trunk)
        if self.n > len(blocks):
            raise UserError(f"tuner.n={self.n}: the trunk uses {len(blocks)} blocks, give 1 to {len(blocks)}")
        return [p for block in blocks[-self.n :] for p in block.parameters()]


def _is_norm(module: nn.Module) -> bool:
    """Whether it is a norm of torch, or one of timm's own, such as RmsNorm."""
    kind = type(module)
    return isinstance(module, NORMS) or (
        kind.__module__.startswith("timm.layers.") and kind.__name__.endswith(("Norm", "Norm2d"))
    )


def _some(found: list[nn.Parameter], tuner: Tuner, what: str) -> list[nn.Parameter]:
    if not found:
        raise UserError(f"{type(tuner).__name__}: the model has no {what}: choose another tuner")
    return found


def _selected(trunk: nn.Module, parameters: Iterable[nn.Parameter], freeze_embed: bool) -> list[nn.Parameter]:
    excluded = {id(p) for p in trunk.patch_embed.parameters()} if freeze_embed else ()
    return [p for p in parameters if id(p) not in excluded]
