"""Stems: how the two images become the first tokens.

A stem is called with the visible and the infrared image, (B, 3, H, W) each, normalized, and the trunk's own
patch embedding (image -> (B, h, w, C) map). It returns the first map and the prompt p0 (None where there is
none).
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from ..errors import UserError
from ..tuning.iv_tuning.modules import PromptGenerator
from ..tuning.options import need_whole


class Stem(nn.Module):
    """Base of all stems. Own parameters of a stem always train."""

    def attach(self, embed: nn.Module) -> None:
        """Build what depends on the trunk; `embed` is its patch embedding."""

    def base_loaded(self, embed: nn.Module) -> None:
        """Called when pretrained weights have been read into the trunk."""

    def forward(
        self, visible: Tensor, infrared: Tensor | None, embed: nn.Module
    ) -> tuple[Tensor, Tensor | None]:
        raise NotImplementedError


class VisibleOnly(Stem):
    """The visible image alone; infrared is not looked at."""

    def forward(self, visible, infrared, embed):
        return embed(visible), None


class InfraredOnly(Stem):
    """The infrared image alone, through the trunk's own patch embedding."""

    def forward(self, visible, infrared, embed):
        return embed(_needed(infrared, self)), None


class TwoEmbeddings(Stem):
    """Base of the stems that give infrared a patch embedding of its own.

    Args:
        from_visible: start it as a copy of the trunk's (once its weights are read) instead of at random; see
            docs/defaults.md for what that is worth.
    """

    def __init__(self, from_visible: bool = False):
        super().__init__()
        self.from_visible = from_visible

    def attach(self, embed: nn.Module) -> None:
        self.embed = copy.deepcopy(embed)
        for module in self.embed.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()

    @torch.no_grad()
    def base_loaded(self, embed: nn.Module) -> None:
        if self.from_visible:
            self.embed.load_state_dict(embed.state_dict())


class SumStem(TwoEmbeddings):
    """Both patch embeddings, added: the full fine-tuning baseline on pairs."""

    def forward(self, visible, infrared, embed):
        return embed(visible) + self.embed(_needed(infrared, self)), None


class PromptStem(TwoEmbeddings):
    """IV-tuning's input stage (spec 1.3): ``x = X + EMPG(g(X), g(Z))`` with one shared LayerNorm g.

    Infrared enters the trunk through the prompt p0 only.

    Args:
        hidden_dim: e, the prompt generator's bottleneck.
        norm: normalization inside the generator, "BN" | "SyncBN" | "GN".
        zero_init: start with p0 = 0, so that the trunk starts from the visible image it knows.
        from_visible: start the infrared embedding as a copy of the visible one.

    Raises:
        UserError: `hidden_dim` is no whole number from 4.
    """

    def __init__(
        self, hidden_dim: int = 8, norm: str = "BN", zero_init: bool = True, from_visible: bool = False
    ):
        super().__init__(from_visible)
        need_whole("stem.hidden_dim", hidden_dim, least=4)  # a quarter of it has a convolution
        self.options = dict(hidden_dim=hidden_dim, norm=norm)
        self.zero_init = zero_init

    def attach(self, embed: nn.Module) -> None:
        super().attach(embed)
        channels = embed.proj.out_channels
        self.norm = nn.LayerNorm(channels)
        self.generator = PromptGenerator(channels, **self.options)
        if self.zero_init:
            nn.init.zeros_(self.generator.out.weight)
            nn.init.zeros_(self.generator.out.bias)

    def forward(self, visible, infrared, embed):
        x = embed(visible)
        prompt = self.generator(self.norm(x), self.norm(self.embed(_needed(infrared, self))))
        return x + prompt, prompt


def _needed(infrared: Tensor | None, stem: Stem) -> Tensor:
    if infrared is None:
        raise UserError(
            f"{type(stem).__name__} needs infrared, but the model's input has 3 channels: give "
            "model.pixel_mean and model.pixel_std six values, or use model.backbone.net.stem=VisibleOnly"
        )
    return infrared


STEMS: dict[str, type[Stem]] = {c.__name__: c for c in (VisibleOnly, InfraredOnly, SumStem, PromptStem)}
