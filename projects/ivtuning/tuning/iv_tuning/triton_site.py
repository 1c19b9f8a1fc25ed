"""IV-tuning's sites on CUDA: one operation of six kernel launches forward and twelve backward, in Triton.

The modules' own forward passes, or the operations of fused.py, are forty and a hundred small kernels per
site. A step then waits for launches, not for arithmetic (docs/benchmarks/gpu.md).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ...utils.precision import product_dtype
from ...utils.triton_support import padded_width, triton, why_no_triton
from .modules import SIMAM_PENALTY, HybridAdapter, PromptAdapter

if triton is not None:
    from . import triton_backward as backward_kernels
    from . import triton_forward as kernels
    from . import triton_totals as totals_kernels

# Programs that sum over tokens: two for each of Hopper's 132 multiprocessors, fewer do no harm elsewhere.
PROGRAMS = 256
# Sides of tiles. With these and the numbers of warps below, next to nothing spills from Hopper's registers.
ROWS, WIDE_ROWS, CHANNELS = 32, 64, 64
LARGEST = 128  # width of a bottleneck: wider ones do not fit the registers, and do not need these kernels


class Shape(NamedTuple):
    """Sizes of a site's maps, and what its kernels are compiled for."""

    images: int
    height: int
    width: int
    channels: int
    hidden: int
    prompt: int
    dtype: torch.dtype
    eps: float  # of the norms before the projections

    @property
    def tokens(self) -> int:
        """Number of tokens in one image."""
        return self.height * self.width

    @property
    def n(self) -> int:
        """Number of tokens in the batch."""
        return self.images * self.tokens

    @property
    def blocks(self) -> int:
        """Number of blocks of ROWS tokens in the batch."""
        return triton.cdiv(self.n, ROWS)

    @property
    def image_blocks(self) -> int:
        """Number of blocks in one image, where no block may hold tokens of two images."""
        return triton.cdiv(self.tokens, ROWS)

    @property
    def wide(self) -> dict:
        """Constants of the kernels that read wide maps."""
        return {**self.narrow, "R": self.prompt, "RP": padded_width(self.prompt), "BC": CHANNELS}

    @property
    def narrow(self) -> dict:
        """Constants of the kernels that read narrow maps."""
        return {"K": self.hidden, "KP": padded_width(self.hidden), "BM": ROWS, **self.arithmetic}

    @property
    def arithmetic(self) -> dict:
        """Type and precision of the products."""
        precision = "tf32" if torch.backends.cuda.matmul.allow_tf32 else "ieee"
        return {"D": getattr(kernels.tl, _NAMES[self.dtype]), "PRECISION": precision}


_NAMES = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16"}


def serves(adapter: HybridAdapter, prompter: PromptAdapter, x: Tensor, prompt: Tensor) -> bool:
    """Whether the kernels can compute this site, and are worth it: on CUDA alone."""
    return x.is_cuda and unsupported(adapter, prompter, x, prompt) is None


def unsupported(adapter: HybridAdapter, prompter: PromptAdapter, x: Tensor, prompt: Tensor) -> str | None:
    """Why the kernels cannot compute this site, or None where they can."""
    norm = adapter.mix.norm
    if reason := why_no_triton(x):
        return reason
    if x.dtype not in _NAMES or prompt.dtype not in _NAMES:
        return f"the kernels compute in {', '.join(_NAMES.values())}, and the maps are {x.dtype}"
    if not isinstance(norm, nn.BatchNorm2d) or not norm.affine or norm.momentum is None:
        return "the kernels know tuner.norm=BN alone"
    if not norm.training and (torch.is_grad_enabled() or norm.running_mean is None):
        # Running statistics are constants, whose gradient is another one than the batch's.
        return "the kernels have no gradient in evaluation mode"
    if not x.shape[-1] < x.numel() < 1 << 31:  # one token has no statistics; offsets are 32 bits wide
        return "the kernels need more than one token and fewer than 2^31 numbers in a map"
    if max(adapter.down.out_features, prompter.down.out_features) > LARGEST:
        return f"the kernels know tuner.hidden_dim and tuner.prompt_dim up to {LARGEST}"
    return None


def site(adapter: HybridAdapter, prompter: PromptAdapter, x: Tensor, prompt: Tensor) -> Tensor:
    """``adapter(x) + prompter(prompt)`` where :func:`unsupported` gives None. (B, H, W, C) -> the same."""
    norm, scale = adapter.mix.norm, prompter.scale
    affine = (None, None) if isinstance(scale, nn.Identity) else (scale.gamma, scale.beta)
    height, width = x.shape[1:3]
    shape = Shape(
        len(x),
        *((width, height) if adapter.legacy_hw_swap else (height, width)),
        x.shape[-1],
        adapter.down.out_features,
        prompter.down.out_features,
        product_dtype(x),
        adapter.transform.norm.eps,
    )
    dropout = adapter.dropout.p if adapter.training else 0.0
    # Drawn on the device, where the kernels read it: a captured graph draws another one at every replay.
    seed = torch.randint(1 << 31, (1,), device=x.device) if dropout else None
    if norm.training and norm.track_running_stats:
        # The kernel writes them without torch's knowledge.
        for buffer in (norm.running_mean, norm.running_var, norm.num_batches_tracked):
            torch.autograd.graph.increment_version(buffer)
    return _Site.apply(
        shape, norm, seed, dropout, x.contiguous(), prompt.contiguous(),
        *_transform(adapter), adapter.mix.depthwise.weight, adapter.mix.depthwise.bias,
        adapter.mix.conv1.weight, adapter.mix.conv1.bias, norm.weight, norm.bias,
        adapter.mix.conv2.weight, adapter.mix.conv2.bias, adapter.up.weight, adapter.up.bias,
        *_transform(prompter), prompter.up.weight, prompter.up.bias, *affine,
    )  # fmt: skip


def _transform(module: HybridAdapter | PromptAdapter) -> tuple[Tensor, ...]:
    norm = module.transform.norm
    return (
        norm.weight, norm.bias, module.transform.gamma, module.transform.beta, module.down.weight,
        module.down.bias,
    )  # fmt: skip


class _Site(torch.autograd.Function):
    """It keeps the prompt, narrow maps and, in place of x, the result, which the next norm keeps as well."""

    @staticmethod
    def forward(ctx, shape, norm, seed, dropout, x, prompt, *parameters):
        (
            norm_weight, norm_bias, gamma, beta, down, down_bias,
            depthwise, depthwise_bias, conv1, conv1_bias, batch_weight, batch_bias, conv2, conv2_bias,
            up, up_bias,
            prompt_norm_weight, prompt_norm_bias, prompt_gamma, prompt_beta, prompt_down, prompt_down_bias,
            prompt_up, prompt_up_bias, last_gamma, last_beta,
        ) = parameters  # fmt: skip
        with torch.cuda.device_of(x):
            z, _ = _project(
                shape, x, shape.hidden, False, norm_weight, norm_bias, gamma, beta, down, down_bias
            )
            p, partial = _project(
                shape, prompt, shape.prompt, True, prompt_norm_weight, prompt_norm_bias, prompt_gamma,
                prompt_beta, prompt_down, prompt_down_bias,
            )  # fmt: skip
            prompt_stats = x.new_empty((shape.images, 2, shape.prompt), dtype=torch.float32)
            kernels.prompt_statistics[(shape.images,)](
                partial, prompt_stats, shape.tokens, shape.image_blocks, SIMAM_PENALTY,
                K=shape.prompt, KP=padded_width(shape.prompt), BM=ROWS, BP=64,
            )  # fmt: skip
            y, a, partial = _mix(shape, z, depthwise, depthwise_bias, conv1, conv1_bias, norm.training)
            stats = x.new_empty((2, shape.hidden), dtype=torch.float32)
            track = norm.track_running_stats and norm.training
            kernels.batch_statistics[(1,)](
                partial, norm.running_mean, norm.running_var, norm.num_batches_tracked, stats,
                shape.n, shape.blocks, norm.eps, norm.momentum,
                K=shape.hidden, KP=padded_width(shape.hidden), BM=ROWS, BP=64,
                TRAIN=norm.training, TRACK=track,
            )  # fmt: skip
            out = torch.empty_like(x)
            kernels.up[(triton.cdiv(shape.n, WIDE_ROWS),)](
                x, a, y, stats, batch_weight, batch_bias, conv2, conv2_bias, p.z, p.folded, prompt_stats,
                up, up_bias, prompt_up, prompt_up_bias, last_gamma, last_beta, out,
                shape.n, shape.tokens, shape.channels, seed, dropout,
                DROP=dropout > 0, AFFINE=last_gamma is not None, **{**shape.wide, "BM": WIDE_ROWS},
            )  # fmt: skip
        ctx.save_for_backward(out, prompt, *z, *p, prompt_stats, stats, *parameters)
        ctx.constants = shape, seed, dropout
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        shape, seed, dropout = ctx.constants
        out, prompt, *saved = ctx.saved_tensors
        z, p, (prompt_stats, stats) = Projected(*saved[:4]), Projected(*saved[4:8]), saved[8:10]
        (
            norm_weight, norm_bias, gamma, beta, down, down_bias,
            depthwise, depthwise_bias, conv1, conv1_bias, batch_weight, batch_bias, conv2, conv2_bias,
            up, up_bias,
            prompt_norm_weight, prompt_norm_bias, prompt_gamma, prompt_beta, prompt_down, prompt_down_bias,
            prompt_up, prompt_up_bias, last_gamma, last_beta,
        ) = parameters = saved[10:]  # fmt: skip
        grad = grad.contiguous()
        affine = last_gamma is not None
        k, r, part, c = shape.hidden, shape.prompt, depthwise.shape[0], shape.channels
        n, tokens, blocks = shape.n, shape.tokens, shape.blocks
        programs = min(blocks, PROGRAMS)
        # A program's row of sums over tokens: of backward_hidden, backward_mix and backward_depthwise.
        widths = [k * k, k, k, k, k * k, k, k, 9 * part, part]
        first, second, third = 0, k * k + 3 * k, 2 * k * k + 4 * k
        with torch.cuda.device_of(grad):
            sums = grad.new_empty((programs, sum(widths)), dtype=torch.float32)

            def narrow(width: int = k) -> Tensor:
                return grad.new_empty((n, width), dtype=shape.dtype)

            def part_of(start: int) -> Tensor:
                return sums.view(-1)[start:]

            y, a, _ = _mix(shape, z, depthwise, depthwise_bias, conv1, conv1_bias, False)
            grad_hidden, grad_u, grad_b, hidden, grad_p = narrow(), narrow(), narrow(), narrow(), narrow(r)
            image_blocks = shape.image_blocks
            prompt_sums = grad.new_empty((shape.images, image_blocks, 2, r), dtype=torch.float32)
            backward_kernels.backward_up[(image_blocks, shape.images)](
                grad, p.z, p.folded, prompt_stats, up, prompt_up, prompt_up_bias, last_gamma, last_beta,
                grad_hidden, grad_p, prompt_sums, tokens, c, AFFINE=affine, **shape.wide,
            )  # fmt: skip
            backward_kernels.backward_hidden[(programs,)](
                grad_hidden, a, y, stats, batch_weight, batch_bias, conv2, conv2_bias,
                grad_u, grad_b, hidden, part_of(first), n, blocks, seed, dropout, sums.shape[1],
                DROP=dropout > 0, **shape.narrow,
            )  # fmt: skip
            grad_y = narrow()
            backward_kernels.backward_mix[(programs,)](
                a, y, stats, batch_weight, conv1, grad_u, grad_b, part_of(first + k * k + k), grad_y,
                part_of(second), n, blocks, programs, sums.shape[1], BP=32, **shape.narrow,
            )  # fmt: skip
            grad_z = grad_u  # its memory
            backward_kernels.backward_depthwise[(programs,)](
                z.z, z.folded, depthwise, grad_y, grad_z, part_of(third),
                n, shape.height, shape.width, blocks, sums.shape[1],
                K=k, KP=padded_width(k), PART=part, BM=ROWS,
            )  # fmt: skip
            image_parts = triton.cdiv(tokens, 256)
            totals = grad.new_empty((shape.images * image_parts, r), dtype=torch.float32)
            backward_kernels.backward_attention[(image_parts, shape.images)](
                p.z, p.folded, prompt_stats, grad_p, prompt_sums, grad_p, totals, tokens, image_blocks,
                K=r, KP=padded_width(r), BT=256, BP=64,
            )  # fmt: skip
            grad_x, grad_prompt = torch.empty_like(out), torch.empty_like(prompt)
            standardized, prompt_standardized = narrow(c), narrow(c)
            backward_kernels.backward_project[(triton.cdiv(n, WIDE_ROWS),)](
                grad, out, z.z, grad_z, z.mean, z.rstd, z.folded, norm_weight, gamma, down,
                hidden, up, up_bias, p.z, p.folded, prompt_stats, prompt_up, prompt_up_bias,
                last_gamma, last_beta, grad_x, standardized, n, tokens, c,
                SITE=True, AFFINE=affine, **{**shape.wide, "BM": WIDE_ROWS}, num_warps=8,
            )  # fmt: skip
            nothing = [None] * 10
            backward_kernels.backward_project[(triton.cdiv(n, WIDE_ROWS),)](
                None, prompt, p.z, grad_p, p.mean, p.rstd, p.folded,
                prompt_norm_weight, prompt_gamma, prompt_down, *nothing, grad_prompt,
                prompt_standardized, n, tokens, c,
                SITE=False, AFFINE=False, **{**shape.wide, "BM": WIDE_ROWS, "K": r, "KP": padded_width(r)},
            )  # fmt: skip
            splits = min(blocks, triton.cdiv(PROGRAMS, triton.cdiv(c, CHANNELS)))
            wide = grad.new_empty((splits, 2 * k + 2 * r + 3, c), dtype=torch.float32)
            backward_kernels.backward_columns[(triton.cdiv(c, CHANNELS), splits)](
                grad, standardized, grad_z, hidden, prompt_standardized, grad_p,
                p.z, p.folded, prompt_stats, prompt_up, prompt_up_bias, last_gamma, last_beta, wide,
                n, tokens, blocks, c, AFFINE=affine, **shape.wide, num_warps=8,
            )  # fmt: skip
            total = sums.sum(0).split(widths)
            grads = [None if t is None else torch.empty_like(t) for t in parameters]
            (
                grad_norm_weight, grad_norm_bias, grad_gamma, grad_beta, grad_down, _,
                *_, grad_up, grad_up_bias,
                grad_prompt_norm_weight, grad_prompt_norm_bias, grad_prompt_gamma, grad_prompt_beta,
                grad_prompt_down, grad_prompt_down_bias, grad_prompt_up, grad_prompt_up_bias,
                grad_last_gamma, grad_last_beta,
            ) = grads  # fmt: skip
            totals_kernels.finish[(triton.cdiv(c, 32),)](
                wide, splits, total[6], totals, len(totals),
                norm_weight, norm_bias, gamma, beta, down,
                prompt_norm_weight, prompt_norm_bias, prompt_gamma, prompt_beta, prompt_down, last_gamma,
                grad_norm_weight, grad_norm_bias, grad_gamma, grad_beta, grad_down, grad_up, grad_up_bias,
                grad_prompt_norm_weight, grad_prompt_norm_bias, grad_prompt_gamma, grad_prompt_beta,
                grad_prompt_down, grad_prompt_down_bias, grad_prompt_up, grad_prompt_up_bias,
                grad_last_gamma, grad_last_beta, c,
                K=k, KP=padded_width(k), R=r, RP=padded_width(r), BC=32, AFFINE=affine,
            )  # fmt: skip
        for i, place in zip(range(5, 14), (6, 7, 8, 4, 5, 3, 2, 0, 1), strict=True):
            grads[i] = total[place].view(parameters[i].shape).to(parameters[i].dtype)
        return None, None, None, None, grad_x, grad_prompt, *grads


class Projected(NamedTuple):
    """The outputs of :func:`.triton_forward.project`."""

    z: Tensor
    mean: Tensor
    rstd: Tensor
    folded: Tensor


def _project(
    shape: Shape, x: Tensor, width: int, statistics: bool, *parameters: Tensor
) -> tuple[Projected, Tensor | None]:
    z = x.new_empty((shape.n, width), dtype=shape.dtype)
    mean, rstd = (x.new_empty(shape.n, dtype=torch.float32) for _ in range(2))
    folded = x.new_empty((2, width), dtype=torch.float32)
    blocks = shape.image_blocks
    partial = x.new_empty((shape.images, blocks, 2, width), dtype=torch.float32) if statistics else None
    kernels.project[(blocks, shape.images)](
        x, *parameters, z, mean, rstd, folded, partial, shape.tokens, shape.channels, shape.eps,
        K=width, KP=padded_width(width), BM=ROWS, BC=CHANNELS, STATISTICS=statistics, **shape.arithmetic,
    )  # fmt: skip
    return Projected(z, mean, rstd, folded), partial


def _mix(shape, z: Projected, depthwise, depthwise_bias, conv1, conv1_bias, statistics: bool):
    y, a = (torch.empty_like(z.z) for _ in range(2))
    partial = z.z.new_empty((shape.blocks, 2, shape.hidden), dtype=torch.float32) if statistics else None
    kernels.mix[(shape.blocks,)](
        z.z, z.folded, depthwise, depthwise_bias, conv1, conv1_bias, y, a, partial,
        shape.n, shape.height, shape.width, PART=depthwise.shape[0], STATISTICS=statistics, **shape.narrow,
    )  # fmt: skip
    return y, a, partial
