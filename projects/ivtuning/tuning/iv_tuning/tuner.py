"""IV-tuning (arXiv 2412.16654), generation B: hybrid adapters, prompt adapters, the modal prompt generator.

Maps are (B, H, W, C) at the door of every module; (B, C, H, W) only around convolutions.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...errors import UserError, nearest
from ..base import CONVOLUTION_INSIDE, BlockAdapters, Tuner
from ..options import need_rate, need_whole
from . import folded, triton_site
from .fused import adapted_residual, fold, normed_projection
from .modules import HybridAdapter, PromptAdapter


class IVBlockAdapters(BlockAdapters):
    """``x = HA1(x) + IPA1(p)`` after the attention, ``x = HA2(x) + IPA2(p)`` after the MLP (spec 1.4).

    Computed by the two operations of fused.py, in evaluation by folded.py, which writes into x, on CUDA by
    triton_site.py; what HA and IPA are is defined by their own forward passes.
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
        if triton_site.serves(adapter, prompter, x, p):
            return triton_site.site(adapter, prompter, x, p)
        y = folded.run(self, index, x, p)
        return adapt(adapter, prompter, x, p) if y is None else y

    def train(self, mode: bool = True) -> IVBlockAdapters:
        folded.forget(self)
        return super().train(mode)

    def reset_to_identity(self) -> None:
        for module in self.children():
            module.reset_to_identity()


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
        norm: normalization inside the adapters, "BN" | "SyncBN" | "GN".
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

    def build_adapters(self, width: int) -> IVBlockAdapters:
        adapter = HybridAdapter(width, **self.adapter_options)
        prompt = PromptAdapter(width, **self.prompt_options)
        if self.share_sites:
            pairs = (adapter, adapter), (prompt, prompt)
        else:
            pairs = (
                (adapter, HybridAdapter(width, **self.adapter_options)),
                (prompt, PromptAdapter(width, **self.prompt_options)),
            )
        adapters = IVBlockAdapters(*pairs)
        if self.zero_init:
            adapters.reset_to_identity()
        return adapters
