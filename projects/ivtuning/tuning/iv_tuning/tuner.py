"""IV-tuning (arXiv 2412.16654) as a tuning method; docs/method.md 1 has its equations."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...utils.norms import NORMS
from ...utils.precision import product_dtype
from ..base import CONVOLUTION_INSIDE, PassAdapters, Tuner
from ..options import need_choice, need_rate, need_whole
from .adapters import IVBlockAdapters
from .constant import ConstantAdapters
from .folded import is_constant
from .modules import HybridAdapter, PromptAdapter
from .passes import FoldedPass, FusedPass

# How the sites are computed, see :class:`IVTuning`.
BACKENDS = ("auto", "plain", "fused", "triton")


PRESETS = {
    # As the paper's code has it.
    "parity": dict(zero_init=False, norm="BN"),
    # The variant that gives ViTDet-B its published 3,658,372 parameters.
    "vitdet_v1": dict(zero_init=False, norm="BN", post_affine=False),
}


class IVTuning(Tuner):
    """IV-tuning: a hybrid adapter and a prompt adapter at two sites of every block; the trunk is frozen.

    Use it with :class:`ivtuning.tuning.stems.PromptStem`, which makes the first prompt. Stems that use one
    of the two images alone are refused.

    Args:
        hidden_dim: h, the width of the adapters' bottleneck.
        prompt_dim: r, the width of the prompt adapters' bottleneck.
        dropout: rate inside the adapters, before the up-projection.
        norm: normalization inside the adapters, "BN" | "SyncBN" | "GN".
        zero_init: start as the identity: up-projections (and what follows them) are zero.
        post_affine: keep the prompt adapters' last scale and bias.
        share_sites: one set of weights for both sites of a block.
        legacy_hw_swap: read maps that are not square as (W, H), as the paper's code does.
        preset: "parity" or "vitdet_v1"; sets the options that define it.
        backend: how the sites are computed. "plain" runs the modules as they are defined, one after the
            other. "fused" joins them to operations that keep less for the backward pass, and multiplies out
            constants in evaluation; after writes through ``.data``, which torch does not count, call
            ``model.eval()`` to have them multiplied out again. "triton" uses CUDA kernels. All give the same
            values up to rounding. "auto" takes the kernels where they can run and "fused" elsewhere.
            torch.compile always compiles the plain form.

    Raises:
        UserError: an option of another kind or range.
    """

    needs = ("visible", "infrared")
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
        backend: str = "auto",
    ):
        super().__init__()
        need_whole("tuner.hidden_dim", hidden_dim, least=4)  # a quarter of it has a convolution
        need_whole("tuner.prompt_dim", prompt_dim)
        need_rate("tuner.dropout", dropout)
        need_choice("tuner.backend", backend, BACKENDS)
        need_choice("tuner.norm", norm, NORMS)
        options: dict = dict(norm=norm, zero_init=zero_init, post_affine=post_affine)
        if preset is not None:
            need_choice("tuner.preset", preset, list(PRESETS))
            options.update(PRESETS[preset])
        self.adapter_options: dict = dict(
            hidden_dim=hidden_dim, dropout=dropout, norm=options["norm"], legacy_hw_swap=legacy_hw_swap
        )
        self.prompt_options: dict = dict(prompt_dim=prompt_dim, post_affine=options["post_affine"])
        self.zero_init = options["zero_init"]
        self.share_sites = share_sites
        self.backend = backend

    def meaning(self) -> dict[str, object]:
        return {"legacy_hw_swap": self.adapter_options["legacy_hw_swap"]}

    def build_adapters(self, width: int) -> IVBlockAdapters:
        adapter = HybridAdapter(width, **self.adapter_options)
        prompt = PromptAdapter(width, **self.prompt_options)
        if self.share_sites:
            return IVBlockAdapters((adapter, adapter), (prompt, prompt), self.backend)
        adapters = adapter, HybridAdapter(width, **self.adapter_options)
        prompts = prompt, PromptAdapter(width, **self.prompt_options)
        return IVBlockAdapters(adapters, prompts, self.backend)

    def begin(self, x: Tensor) -> PassAdapters:
        """See :meth:`Tuner.begin`. Plain modules and CUDA kernels compute each site by itself."""
        if (
            self.backend in ("plain", "triton")
            or (self.backend == "auto" and x.is_cuda)
            or torch.compiler.is_compiling()
            or not all(isinstance(adapters, IVBlockAdapters) for adapters in self.blocks)
        ):
            return super().begin(x)
        dtype = product_dtype(x)
        constants = [adapters.folded.current(adapters.pairs, dtype) for adapters in self.blocks]
        if all(constants):
            return FoldedPass(self.blocks, constants)
        return FusedPass(self.blocks, dtype)

    def set_backend(self, backend: str) -> None:
        """Change how the sites of all blocks are computed; see `backend` above."""
        need_choice("tuner.backend", backend, BACKENDS)
        self.backend = backend
        for adapters in self.blocks:
            adapters.backend = backend

    def fold(self, trunk: nn.Module) -> None:
        """See :meth:`Tuner.fold`; GroupNorm has no running statistics, and stays as it is."""
        self.blocks = nn.ModuleList(
            ConstantAdapters(adapters.pairs) if is_constant(adapters.pairs) else adapters
            for adapters in self.blocks
        )
