"""IV-tuning's sites in evaluation, without gradients: constants are multiplied out once for many passes.

The affine maps of the norms become part of the projections behind them, running statistics part of the first
1x1 convolution, the partial residual part of the depthwise convolution's center and of the down-projection's
rows, and every bias a row of the weight behind it.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.optimizer import register_optimizer_step_post_hook

from ...utils.precision import without_autocast
from .modules import SIMAM_PENALTY, HybridAdapter, PromptAdapter, joined

# A block's sites: after the attention, and after the MLP.
Pairs = tuple[tuple[HybridAdapter, PromptAdapter], tuple[HybridAdapter, PromptAdapter]]
# Columns of ones that carry a bias through a product; tensor cores want multiples of 8.
ONES = 8


class Site(NamedTuple):
    """The constants of one site; h and r are the widths of the bottlenecks."""

    eps: float
    swap: bool
    down: Tensor  # (h, C)
    down_bias: Tensor
    depthwise: Tensor  # (h // 4, 1, 3, 3)
    depthwise_bias: Tensor
    conv1: Tensor  # (h, h)
    conv1_bias: Tensor
    conv2: Tensor  # (h, h), transposed
    up: Tensor  # (h + ONES, C)
    prompt_up: Tensor  # (r + ONES, C)


@dataclass
class Constants:
    """The constants of a block's two sites, and what they were made of.

    `made_of` holds parameters and buffers with their versions, `optimizer_steps` the count at that time.
    """

    made_of: list[tuple[Tensor, int]]
    optimizer_steps: int
    dtype: torch.dtype
    prompt_eps: float
    prompt_down: Tensor  # (2 r, C)
    prompt_bias: Tensor
    sites: tuple[Site, Site]


class FoldedSites:
    """Computes a block's two sites by constants that it makes when they are first needed.

    They are made anew whenever a parameter or buffer has changed, but for writes through ``.data``, which
    torch does not count: call ``model.eval()`` after these. An object like this is a plain attribute of
    the module that holds the adapters: it adds nothing to a state dict, and copies and pickles start empty.
    """

    def __init__(self):
        self._constants: Constants | None = None

    def __reduce__(self):
        return FoldedSites, ()

    @property
    def is_empty(self) -> bool:
        """True where no constants are held."""
        return self._constants is None

    def forget(self) -> None:
        """Drop the constants."""
        self._constants = None

    def current(self, pairs: Pairs, dtype: torch.dtype) -> Constants | None:
        """The constants of the sites `pairs` as they are now, in `dtype`.

        None where nothing is folded: with gradients, in training, with a norm that has no running statistics,
        and for parameters made in inference mode, whose changes nobody can notice.
        """
        if torch.is_grad_enabled() or not is_constant(pairs):
            return None
        tensors, steps = list(_tensors(pairs)), _step_counter().steps
        known = self._constants
        if (
            known is None
            or known.dtype != dtype
            or known.optimizer_steps != steps
            or not _same(known.made_of, tensors)
        ):
            if any(t.is_inference() for t in tensors):
                return None
            # Kept as they are now: memory of a replaced parameter must not be given to the next one.
            made_of = [(t.detach(), t._version) for t in tensors]
            known = self._constants = _fold(pairs, made_of, steps, dtype)
        return known


class _StepCounter:
    steps = 0

    def __call__(self, *_) -> None:
        self.steps += 1


@functools.cache
def _step_counter() -> _StepCounter:
    """Counts the optimizer steps of this process, from the first time that constants are made.

    Every change of a tensor counts up its version, but for those of fused optimizers.
    """
    counter = _StepCounter()
    register_optimizer_step_post_hook(counter)
    return counter


def attended_prompts(prompt: Tensor, blocks: Sequence[Constants]) -> list[Tensor]:
    """Between their projections, the prompt adapters of all sites of `blocks`: (B H W, r + ONES) each."""
    batch, sites = len(prompt), sum(len(block.sites) for block in blocks)
    normed = F.layer_norm(prompt, prompt.shape[-1:], eps=blocks[0].prompt_eps)
    weight, bias = joined([b.prompt_down for b in blocks]), joined([b.prompt_bias for b in blocks])
    z = F.linear(normed.to(weight.dtype), weight, bias)
    z = z.view(batch, -1, z.shape[-1])
    deviation = (z - z.mean(1, keepdim=True)).square_()
    freedom = max(z.shape[1] - 1, 1)
    scale = 4 * (deviation.sum(1, keepdim=True) / freedom + SIMAM_PENALTY)
    a = F.gelu(z * deviation.div_(scale).add_(0.5).sigmoid_()).flatten(0, 1)
    return [_with_ones(part) for part in a.chunk(sites, -1)]


def site(weights: Site, attended: Tensor, x: Tensor) -> Tensor:
    """``adapter(x) + prompter(prompt)``, written into x where its layout allows. (B, H, W, C) -> the same.

    Args:
        attended: what :func:`attended_prompts` gives for the site.
    """
    batch, height, width, channels = x.shape
    flat = x.reshape(-1, channels)
    normed = F.layer_norm(flat, (channels,), eps=weights.eps).to(weights.down.dtype)
    u = F.linear(normed, weights.down, weights.down_bias)
    del normed  # its memory is warm, and the last product will take it
    part = len(weights.depthwise)
    size = (width, height) if weights.swap else (height, width)
    first = u[:, :part].view(batch, *size, part).permute(0, 3, 1, 2)
    first = F.conv2d(first, weights.depthwise, weights.depthwise_bias, padding=1, groups=part)
    u[:, :part] = first.permute(0, 2, 3, 1).reshape(-1, part)
    u.addmm_(F.linear(u, weights.conv1, weights.conv1_bias).relu_(), weights.conv2)
    _add_product(flat, _with_ones(F.gelu(u)), weights.up)
    flat += torch.ops.aten.gelu_(attended @ weights.prompt_up)
    return flat.view(x.shape)


def _add_product(x: Tensor, a: Tensor, weight: Tensor) -> None:
    if x.dtype == a.dtype:
        x.addmm_(a, weight)
    else:
        x += a @ weight


def _with_ones(x: Tensor) -> Tensor:
    return F.pad(x, (0, ONES), value=1.0)


def is_constant(pairs: Pairs) -> bool:
    """Whether the sites are functions of constants: in evaluation, with running statistics."""
    norms = [adapter.mix.norm for adapter, _ in pairs]
    return not any(module.training for pair in pairs for module in pair) and all(
        isinstance(norm, _BatchNorm) and not norm.training and norm.running_mean is not None for norm in norms
    )


def _tensors(pairs: Pairs) -> Iterator[Tensor]:
    for pair in pairs:
        for root in pair:
            for module in root.modules():
                # A third of the time that parameters() and buffers() take, on every site of every pass.
                for tensor in (*module._parameters.values(), *module._buffers.values()):
                    if tensor is not None:
                        yield tensor


def _same(made_of: list[tuple[Tensor, int]], tensors: list[Tensor]) -> bool:
    return len(made_of) == len(tensors) and all(
        old.data_ptr() == new.data_ptr() and version == new._version
        for (old, version), new in zip(made_of, tensors, strict=True)
    )


@torch.no_grad()
def fold_sites(pairs: Pairs) -> Constants:
    """The constants of the sites as they are now."""
    return _fold(pairs, [(t, t._version) for t in _tensors(pairs)], 0, pairs[0][0].down.weight.dtype)


def _fold(pairs: Pairs, made_of: list[tuple[Tensor, int]], steps: int, dtype: torch.dtype) -> Constants:
    with without_autocast(made_of[0][0].device.type):
        down = [prompter.transform.fold_into(prompter.down) for _, prompter in pairs]
        return Constants(
            made_of,
            steps,
            dtype,
            pairs[0][1].transform.norm.eps,
            *(torch.cat(parts).to(dtype) for parts in zip(*down, strict=True)),
            sites=(_site(*pairs[0], dtype), _site(*pairs[1], dtype)),
        )


def _site(adapter: HybridAdapter, prompter: PromptAdapter, dtype: torch.dtype) -> Site:
    mix = adapter.mix
    part = mix.part
    down, down_bias = (t.clone() for t in adapter.transform.fold_into(adapter.down))
    # concat(depthwise(first), rest) + (first, rest)
    down[part:] *= 2
    down_bias[part:] *= 2
    depthwise = mix.depthwise.weight.clone()
    depthwise[:, :, 1, 1] += 1
    # The last convolution's bias joins its residual before the first convolution, which takes it off again.
    late = mix.conv2.bias
    down_bias[part:] += late[part:]
    depthwise_bias = mix.depthwise.bias + late[:part]
    scale = mix.norm.weight * (mix.norm.running_var + mix.norm.eps).rsqrt()
    conv1 = mix.conv1.weight.flatten(1) * scale[:, None]
    conv1_bias = torch.addcmul(mix.norm.bias, mix.conv1.bias - mix.norm.running_mean, scale) - conv1 @ late
    constants = (
        down,
        down_bias,
        depthwise,
        depthwise_bias,
        conv1,
        conv1_bias,
        mix.conv2.weight.flatten(1).T,
        _rows(adapter.up.weight, adapter.up.bias),
        _rows(*prompter.scaled_up()),
    )
    return Site(
        adapter.transform.norm.eps, adapter.legacy_hw_swap, *(c.to(dtype).contiguous() for c in constants)
    )


def _rows(weight: Tensor, bias: Tensor) -> Tensor:
    """(C, k) and (C,) -> (k + ONES, C), for an input with ONES more columns of ones."""
    return torch.cat([weight.T, bias[None], bias.new_zeros(ONES - 1, len(bias))])
