"""IV-tuning (arXiv 2412.16654), generation B: hybrid adapters, prompt adapters, the modal prompt generator.

Maps are (B, H, W, C) at the door of every module; (B, C, H, W) only around convolutions.
"""

from __future__ import annotations

import contextlib
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UserError, nearest
from . import folded, site_cuda
from .base import CONVOLUTION_INSIDE, Sites, Tuner
from .fused import adapted_residual, fold, normed_projection
from .options import need_rate, need_whole
from .statistics import statistics_kept


def make_norm(kind: str, channels: int) -> nn.Module:
    """`kind` of normalisation for (B, `channels`, H, W): "BN" (the paper's), "SyncBN" (CUDA only) or "GN"."""
    if kind == "BN":
        return nn.BatchNorm2d(channels)
    if kind == "SyncBN":
        return nn.SyncBatchNorm(channels)
    if kind == "GN":
        return nn.GroupNorm(math.gcd(channels, max(1, channels // 8)), channels)
    raise UserError(f"norm {kind!r} is not one of 'BN', 'SyncBN', 'GN': set tuner.norm to one of them")


def simam(x: Tensor, penalty: float = 1e-4) -> Tensor:
    """SimAM attention, parameter-free. `x` is (B, c, H, W); statistics run over the whole map."""
    deviation = (x - x.mean((2, 3), keepdim=True)).square()
    # A 1x1 map has no degree of freedom left: clamp, where the original divides by zero.
    freedom = max(x.shape[2] * x.shape[3] - 1, 1)
    energy = deviation / (4 * (deviation.sum((2, 3), keepdim=True) / freedom + penalty)) + 0.5
    return x * energy.sigmoid()


class HybridOperation(nn.Module):
    """HO(h): a partial depthwise 3x3 convolution, then a residual bottleneck of two 1x1 convolutions.

    (B, h, H, W) -> the same. The quarter of the channels that the depthwise convolution takes is added to the
    input; the others are doubled (the original's ``concat(x1', x2) + x``).
    """

    def __init__(self, channels: int, norm: str = "BN"):
        super().__init__()
        self.part = channels // 4
        self.depthwise = nn.Conv2d(self.part, self.part, 3, padding=1, groups=self.part)
        self.conv1 = nn.Conv2d(channels, channels, 1)
        self.norm = make_norm(norm, channels)
        self.conv2 = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor, again: bool = False) -> Tensor:
        """`again`: a repetition in the backward pass, which must not count in the running statistics."""
        first, rest = x[:, : self.part], x[:, self.part :]
        y = torch.cat([self.depthwise(first), rest], 1) + x
        with statistics_kept(self.norm) if again else contextlib.nullcontext():
            z = self.norm(self.conv1(y))
        return self.conv2(z.relu()) + y


class FeatureTransform(nn.Module):
    """SFT(C): ``norm(x) * gamma + beta``, the norm being optional. (..., C) -> the same."""

    def __init__(self, channels: int, norm: bool):
        super().__init__()
        self.norm = nn.LayerNorm(channels) if norm else nn.Identity()
        self.gamma = nn.Parameter(torch.ones(channels))
        self.beta = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addcmul(self.beta, self.norm(x), self.gamma)


class HybridAdapter(nn.Module):
    """HA(C, h), on the residual stream, residual inside. (B, H, W, C) -> the same.

    133 C + 8672 parameters at h=64.

    `legacy_hw_swap` reads the token sequence as a (W, H) map, as the original's detection code does: on maps
    that are not square its convolution then sees scrambled neighbours.
    """

    def __init__(
        self, channels: int, hidden_dim: int, dropout: float, norm: str, legacy_hw_swap: bool = False
    ):
        super().__init__()
        self.transform = FeatureTransform(channels, norm=True)
        self.down = nn.Linear(channels, hidden_dim)
        self.mix = HybridOperation(hidden_dim, norm)
        self.dropout = nn.Dropout(dropout)
        self.up = nn.Linear(hidden_dim, channels)
        self.legacy_hw_swap = legacy_hw_swap

    def bottleneck(self, u: Tensor, again: bool = False) -> Tensor:
        """What happens between the two projections: (B, H, W, h) -> the same."""
        batch, height, width, _ = u.shape
        if self.legacy_hw_swap:
            u = u.reshape(batch, width, height, -1)
        u = self.mix(u.permute(0, 3, 1, 2), again).permute(0, 2, 3, 1)
        return F.gelu(u.reshape(batch, height, width, -1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.up(self.dropout(self.bottleneck(self.down(self.transform(x)))))

    @torch.no_grad()
    def zero(self) -> None:
        """Make it the identity."""
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)


class PromptAdapter(nn.Module):
    """IPA(C, r), the internal prompt adapter: a delta made of the carried prompt. (B, H, W, C) -> the same.

    23 C + 8 parameters at r=8; `post_affine=False` drops the last scale and bias (2 C), which gives the
    published count of ViTDet-B.
    """

    def __init__(self, channels: int, prompt_dim: int, post_affine: bool = True):
        super().__init__()
        self.transform = FeatureTransform(channels, norm=True)
        self.down = nn.Linear(channels, prompt_dim)
        self.up = nn.Linear(prompt_dim, channels)
        self.scale = FeatureTransform(channels, norm=False) if post_affine else nn.Identity()

    def attention(self, p: Tensor) -> Tensor:
        """What happens between the two projections: (B, H, W, r) -> the same."""
        return F.gelu(simam(p.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))

    def forward(self, prompt: Tensor) -> Tensor:
        return F.gelu(self.scale(self.up(self.attention(self.down(self.transform(prompt))))))

    @torch.no_grad()
    def zero(self) -> None:
        """Make the delta zero, whatever the prompt."""
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)
        if not isinstance(self.scale, nn.Identity):
            nn.init.zeros_(self.scale.beta)


class PromptGenerator(nn.Module):
    """EMPG(C, e): makes the external prompt of both modalities. Two (B, H, W, C) maps -> one.

    25 C + 196 parameters at e=8. Xavier-uniform on every weight, as the original.
    """

    def __init__(self, channels: int, hidden_dim: int = 8, norm: str = "BN"):
        super().__init__()
        self.visible = nn.Conv2d(channels, hidden_dim, 1)
        self.infrared = nn.Conv2d(channels, hidden_dim, 1)
        self.mix = HybridOperation(hidden_dim, norm)
        self.out = nn.Conv2d(hidden_dim, channels, 1)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)

    def forward(self, visible: Tensor, infrared: Tensor) -> Tensor:
        a = self.mix(self.visible(visible.permute(0, 3, 1, 2)))
        b = simam(self.infrared(infrared.permute(0, 3, 1, 2)))
        return self.out(a + b).permute(0, 2, 3, 1)


class IVSites(Sites):
    """``x = HA1(x) + IPA1(p)`` after the attention, ``x = HA2(x) + IPA2(p)`` after the MLP (spec 1.4).

    Computed by the two operations of fused.py, in evaluation by folded.py, which writes into x, on CUDA by
    site_cuda.py; what HA and IPA are is defined by their own forward passes.
    """

    def __init__(
        self, adapters: tuple[HybridAdapter, HybridAdapter], prompts: tuple[PromptAdapter, PromptAdapter]
    ):
        super().__init__()
        self.adapter1, self.adapter2 = adapters
        self.prompt1, self.prompt2 = prompts

    def after_attention(self, x: Tensor, prompt: Tensor) -> Tensor:
        return self._run(0, self.adapter1, self.prompt1, x, prompt)

    def after_mlp(self, y: Tensor, x: Tensor, prompt: Tensor) -> Tensor:
        return self._run(1, self.adapter2, self.prompt2, y, prompt)

    def _run(
        self, index: int, adapter: HybridAdapter, prompter: PromptAdapter, x: Tensor, p: Tensor
    ) -> Tensor:
        if torch.compiler.is_compiling():  # a compiler chooses itself what to keep and to join
            return adapter(x) + prompter(p)
        if site_cuda.serves(adapter, prompter, x, p):
            return site_cuda.site(adapter, prompter, x, p)
        y = folded.run(self, index, x, p)
        return adapt(adapter, prompter, x, p) if y is None else y

    def train(self, mode: bool = True) -> IVSites:
        folded.forget(self)
        return super().train(mode)

    def zero(self) -> None:
        for module in self.children():
            module.zero()


def adapt(adapter: HybridAdapter, prompter: PromptAdapter, x: Tensor, prompt: Tensor) -> Tensor:
    """``adapter(x) + prompter(prompt)`` with little kept for the backward pass."""
    p = _folded(prompter, prompt)
    weight, bias = prompter.up.weight, prompter.up.bias
    if not isinstance(prompter.scale, nn.Identity):
        weight = weight * prompter.scale.gamma[:, None]
        bias = torch.addcmul(prompter.scale.beta, bias, prompter.scale.gamma)
    return adapted_residual(
        x,
        down=fold(adapter.transform.norm, adapter.transform.gamma, adapter.transform.beta, adapter.down),
        eps=adapter.transform.norm.eps,
        inner=adapter.bottleneck,
        parameters=tuple(adapter.mix.parameters()),
        up=adapter.up,
        prompt=prompter.attention(p),
        prompt_up=(weight, bias),
        dropout=adapter.dropout.p if adapter.training else 0.0,
    )


def _folded(prompter: PromptAdapter, prompt: Tensor) -> Tensor:
    transform = prompter.transform
    weight, bias = fold(transform.norm, transform.gamma, transform.beta, prompter.down)
    return normed_projection(prompt, weight, bias, transform.norm.eps)


PRESETS = {
    # What the paper's released modules do.
    "parity": dict(zero_init=False, norm="BN"),
    # The variant that gives ViTDet-B its published 3,658,372 parameters.
    "vitdet_v1": dict(zero_init=False, norm="BN", post_affine=False),
}


class IVTuning(Tuner):
    """IV-tuning: a hybrid adapter and a prompt adapter at two sites of every block; the trunk is frozen.

    Use it with :class:`ivtuning.backbones.stems.PromptStem`, which makes the first prompt.

    Args:
        hidden_dim: h, the adapters' bottleneck.
        prompt_dim: r, the prompt adapters' bottleneck.
        dropout: rate inside the adapters, before the up-projection.
        norm: normalisation inside the adapters, "BN" | "SyncBN" | "GN".
        zero_init: start as the identity: up-projections (and what follows them) are zero.
        post_affine: keep the prompt adapters' last scale and bias.
        share_sites: one set of weights for both sites of a block.
        legacy_hw_swap: reproduce the original's (W, H) reading of non-square maps.
        preset: "parity" or "vitdet_v1"; sets the options that define it.

    Raises:
        UserError: an option of another kind or range.
    """

    unmergeable = CONVOLUTION_INSIDE

    def __init__(
        self,
        hidden_dim: int = 64,
        prompt_dim: int = 8,
        dropout: float = 0.1,
        norm: str = "BN",
        zero_init: bool = True,
        post_affine: bool = True,
        share_sites: bool = False,
        legacy_hw_swap: bool = False,
        preset: str | None = None,
    ):
        super().__init__()
        need_whole("tuner.hidden_dim", hidden_dim, least=4)  # a quarter of it has a convolution
        need_whole("tuner.prompt_dim", prompt_dim)
        need_rate("tuner.dropout", dropout)
        options = dict(norm=norm, zero_init=zero_init, post_affine=post_affine)
        if preset is not None:
            if preset not in PRESETS:
                raise UserError(
                    f"tuner.preset={preset!r}: there are {', '.join(PRESETS)}{nearest(preset, PRESETS)}"
                )
            options.update(PRESETS[preset])
        self.adapter_options = dict(
            hidden_dim=hidden_dim, dropout=dropout, norm=options["norm"], legacy_hw_swap=legacy_hw_swap
        )
        self.prompt_options = dict(prompt_dim=prompt_dim, post_affine=options["post_affine"])
        self.zero_init = options["zero_init"]
        self.share_sites = share_sites

    def sites(self, width: int) -> IVSites:
        adapter = HybridAdapter(width, **self.adapter_options)
        prompt = PromptAdapter(width, **self.prompt_options)
        if self.share_sites:
            pairs = (adapter, adapter), (prompt, prompt)
        else:
            pairs = (
                (adapter, HybridAdapter(width, **self.adapter_options)),
                (prompt, PromptAdapter(width, **self.prompt_options)),
            )
        sites = IVSites(*pairs)
        if self.zero_init:
            sites.zero()
        return sites
