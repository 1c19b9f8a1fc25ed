"""Stems: how the two images become the first tokens.

A stem is called with the visible and the infrared image, (B, 3, H, W) each, normalized, and the trunk's own
patch embedding (image -> (B, h, w, C) map). It returns the first map, and the prompt p0 or None.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from ..errors import UserError
from ..utils.norms import NORMS
from .base import refuse_attached
from .iv_tuning.modules import PromptGenerator
from .layers import set_zero
from .options import need_choice, need_whole


class Stem(nn.Module):
    """Base of all stems. A stem's own parameters always train.

    Attributes:
        attached: True after :meth:`attach`; each model needs a stem of its own.
        uses: the images that have an influence, of "visible" and "infrared".
    """

    attached = False
    uses: tuple[str, ...] = ("visible", "infrared")

    def meaning(self) -> dict[str, object]:
        """Options that change what is computed but no tensor: an adapter loads where they are equal."""
        return {}

    def attach(self, embed: nn.Module) -> None:
        """Build the parts that depend on the trunk; `embed` is its patch embedding.

        Raises:
            UserError: it is attached already.
        """
        refuse_attached(self)
        self.attached = True

    def base_loaded(self, embed: nn.Module) -> None:
        """Called after pretrained weights have been read into the trunk."""

    def forward(
        self, visible: Tensor, infrared: Tensor | None, embed: nn.Module
    ) -> tuple[Tensor, Tensor | None]:
        raise NotImplementedError


class VisibleOnly(Stem):
    """The visible image alone; infrared is ignored."""

    uses = ("visible",)

    def forward(
        self, visible: Tensor, infrared: Tensor | None, embed: nn.Module
    ) -> tuple[Tensor, Tensor | None]:
        return embed(visible), None


class InfraredOnly(Stem):
    """The infrared image alone, through the trunk's own patch embedding; the visible image is ignored."""

    uses = ("infrared",)

    def forward(
        self, visible: Tensor, infrared: Tensor | None, embed: nn.Module
    ) -> tuple[Tensor, Tensor | None]:
        return embed(_require_infrared(infrared, self)), None


class TwoEmbeddings(Stem):
    """Base of the stems that give infrared a patch embedding of its own.

    Args:
        from_visible: start it as a copy of the trunk's own, once its weights are read, instead of at random.
            docs/defaults.md shows the effect.
    """

    def __init__(self, from_visible: bool = False):
        super().__init__()
        self.from_visible = from_visible

    def attach(self, embed: nn.Module) -> None:
        super().attach(embed)
        self.embed = copy.deepcopy(embed)
        for module in self.embed.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
        self.embed.requires_grad_(True)  # the trunk's may be frozen already

    @torch.no_grad()
    def base_loaded(self, embed: nn.Module) -> None:
        if self.from_visible:
            self.embed.load_state_dict(embed.state_dict())


class SumStem(TwoEmbeddings):
    """The sum of both patch embeddings: the full fine-tuning baseline on pairs.

    Args:
        from_visible: start the infrared embedding as a copy of the visible one.
        average: halve the sum. With `from_visible`, the trunk then starts from the mean of both images, not
            from maps twice as large as those that it knows.
    """

    def __init__(self, from_visible: bool = False, average: bool = False):
        super().__init__(from_visible)
        self.average = average

    def meaning(self) -> dict[str, object]:
        return {"average": self.average}

    def forward(
        self, visible: Tensor, infrared: Tensor | None, embed: nn.Module
    ) -> tuple[Tensor, Tensor | None]:
        total = embed(visible) + self.embed(_require_infrared(infrared, self))
        return total / 2 if self.average else total, None


class GatedStem(TwoEmbeddings):
    """Both patch embeddings, infrared through a gate: ``x = X + 10 * gate * Z``.

    X and Z are maps (B, h, w, C) of the two images, and `gate` (C,) starts at 0: the trunk starts from the
    visible image, which it knows, and lets in as much of every infrared channel as helps. docs/defaults.md
    shows the effect.

    Args:
        from_visible: start the infrared embedding as a copy of the visible one, once its weights are read.
    """

    # An Adam step moves a parameter by about the learning rate, so that a plain gate stays nearly shut in a
    # short run; docs/results/msrs_boxes.md has other values.
    GAIN = 10.0

    def __init__(self, from_visible: bool = True):
        super().__init__(from_visible)

    def attach(self, embed: nn.Module) -> None:
        super().attach(embed)
        self.gate = nn.Parameter(torch.zeros(embed.proj.out_channels))

    def forward(
        self, visible: Tensor, infrared: Tensor | None, embed: nn.Module
    ) -> tuple[Tensor, Tensor | None]:
        added = self.embed(_require_infrared(infrared, self))
        return embed(visible) + (self.GAIN * self.gate).to(added.dtype) * added, None


class PromptStem(TwoEmbeddings):
    """IV-tuning's input stage (docs/method.md 1.4): ``x = X + EMPG(g(X), g(Z))``, g one shared LayerNorm.

    Infrared enters the trunk through the prompt p0 only.

    Args:
        hidden_dim: e, the width of the prompt generator's bottleneck.
        norm: normalization inside the generator, "BN" | "SyncBN" | "GN".
        zero_init: start with p0 = 0, so that the trunk starts from the visible image, which it knows.
        from_visible: start the infrared embedding as a copy of the visible one.

    Raises:
        UserError: an option of another kind or range.
    """

    def __init__(
        self, hidden_dim: int = 8, norm: str = "BN", zero_init: bool = True, from_visible: bool = False
    ):
        super().__init__(from_visible)
        need_whole("stem.hidden_dim", hidden_dim, least=4)  # a quarter of it has a convolution
        need_choice("stem.norm", norm, NORMS)
        self.options: dict = dict(hidden_dim=hidden_dim, norm=norm)
        self.zero_init = zero_init

    def attach(self, embed: nn.Module) -> None:
        super().attach(embed)
        channels = embed.proj.out_channels
        self.norm = nn.LayerNorm(channels)
        self.generator = PromptGenerator(channels, **self.options)
        if self.zero_init:
            set_zero(self.generator.out)

    def forward(
        self, visible: Tensor, infrared: Tensor | None, embed: nn.Module
    ) -> tuple[Tensor, Tensor | None]:
        x = embed(visible)
        prompt = self.generator(self.norm(x), self.norm(self.embed(_require_infrared(infrared, self))))
        return x + prompt, prompt


def _require_infrared(infrared: Tensor | None, stem: Stem) -> Tensor:
    if infrared is None:
        raise UserError(
            f"{type(stem).__name__} needs infrared, but the model's input has 3 channels: give "
            "model.pixel_mean and model.pixel_std six values, or use stem=VisibleOnly and a tuner other than "
            "IVTuning"
        )
    return infrared


STEMS: dict[str, type[Stem]] = {
    c.__name__: c for c in (VisibleOnly, InfraredOnly, SumStem, GatedStem, PromptStem)
}
