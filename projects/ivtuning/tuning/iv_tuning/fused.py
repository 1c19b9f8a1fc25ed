"""IV-tuning's sites as two autograd operations that keep little and read wide maps few times.

One operation attends to the prompt for all sites that see the same one. The other is a site. Both are exact:
they compute what the modules compute, gradients included, up to rounding. What is kept for the backward pass
matters because the trunk around them is frozen and keeps no input of any linear layer.

Weights that are products of parameters alone are made once in a forward pass, for all blocks of one width at
a time.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ...utils.precision import is_autocast_on, without_autocast
from .modules import FeatureTransform, HybridAdapter, PromptAdapter, joined

# The hybrid adapter and the prompt adapter of every site of a block, in the order in which they act.
BlockSites = Sequence[tuple[HybridAdapter, PromptAdapter]]


class SiteWeights(NamedTuple):
    """What a site multiplies with, in the type of the products; h and r are the widths of the bottlenecks."""

    down: Tensor  # (h, C); its rows sum to 0
    down_bias: Tensor
    up: Tensor  # (C, h)
    up_bias: Tensor
    prompt_up: Tensor  # (C, r)
    prompt_up_bias: Tensor


class BlockWeights(NamedTuple):
    """The weights of a block's n sites."""

    prompt_down: Tensor  # (n r, C); its rows sum to 0
    prompt_bias: Tensor
    sites: list[SiteWeights]


def fold_blocks(blocks: Sequence[BlockSites], dtype: torch.dtype) -> list[BlockWeights]:
    """The weights of all `blocks`, which have the same number of sites, in `dtype`."""
    by_width: dict[int, list[int]] = {}
    for i, sites in enumerate(blocks):
        by_width.setdefault(sites[0][0].up.out_features, []).append(i)
    folded: dict[int, BlockWeights] = {}
    for same in by_width.values():
        folded.update(zip(same, _fold_same([blocks[i] for i in same], dtype), strict=True))
    return [folded[i] for i in range(len(blocks))]


def _fold_same(blocks: Sequence[BlockSites], dtype: torch.dtype) -> list[BlockWeights]:
    adapters, prompters = zip(*(pair for sites in blocks for pair in sites), strict=True)
    with without_autocast(adapters[0].up.weight.device.type):
        down = fold([a.transform for a in adapters], [a.down for a in adapters], dtype)
        prompt_down, prompt_bias = fold([p.transform for p in prompters], [p.down for p in prompters], dtype)
        up = ([getattr(a.up, name) for a in adapters] for name in ("weight", "bias"))
        parts = *down, *(_cast(p, dtype) for p in up), *_scaled_up(prompters, dtype)
        sites = [SiteWeights(*part) for part in zip(*parts, strict=True)]
        each = len(blocks[0])
        prompts = (t.unflatten(0, (len(blocks), each)).flatten(1, 2) for t in (prompt_down, prompt_bias))
        return [
            BlockWeights(weight, bias, sites[i * each : (i + 1) * each])
            for i, (weight, bias) in enumerate(zip(*(t.unbind(0) for t in prompts), strict=True))
        ]


def fold(
    transforms: Sequence[FeatureTransform], layers: Sequence[nn.Linear], dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Weights (n, k, C) and biases (n, k) with ``layer(transform(x)) == (x @ weight.T) / std(x) + bias``.

    The rows of the weights sum to 0, so x need not be centered, and no large mean has to cancel.
    """
    scale, shift, gamma, beta = (
        torch.stack(tensors)
        for tensors in zip(*((t.norm.weight, t.norm.bias, t.gamma, t.beta) for t in transforms), strict=True)
    )
    weight = torch.stack([layer.weight for layer in layers])
    bias = torch.stack([layer.bias for layer in layers])
    bias = torch.baddbmm(bias[..., None], weight, torch.addcmul(beta, shift, gamma)[..., None])[..., 0]
    weight = weight * (scale * gamma)[:, None]
    return (weight - weight.mean(-1, keepdim=True)).to(dtype), bias.to(dtype)


def _scaled_up(prompters: Sequence[PromptAdapter], dtype: torch.dtype) -> tuple[Sequence[Tensor], ...]:
    """Weights (C, r) and biases (C,) of the prompt adapters with the last scale and bias multiplied in."""
    parts = zip(*(prompter.scaled_up_parts() for prompter in prompters), strict=True)
    weight, bias, *affine = (list(part) for part in parts)
    if not affine:
        return _cast(weight, dtype), _cast(bias, dtype)
    gamma, beta = (torch.stack(part) for part in affine)
    weight, bias = torch.stack(weight) * gamma[..., None], torch.addcmul(beta, torch.stack(bias), gamma)
    return weight.to(dtype).unbind(0), bias.to(dtype).unbind(0)


def _cast(tensors: Sequence[Tensor], dtype: torch.dtype) -> Sequence[Tensor]:
    if all(t.dtype == dtype for t in tensors):
        return tensors
    return torch.stack(list(tensors)).to(dtype).unbind(0)


def attended_prompts(prompt: Tensor, blocks: Sequence[BlockWeights], prompter: PromptAdapter) -> list[Tensor]:
    """What the prompt adapters of all sites of `blocks`, in order, have between their projections.

    It keeps the prompt, two numbers for each token and a narrow map.

    Args:
        prompt: (B, H, W, C).
        prompter: any of the prompt adapters; its parameters are not used.

    Returns:
        A map (B, H, W, r) for each site.
    """
    weight, bias = joined([b.prompt_down for b in blocks]), joined([b.prompt_bias for b in blocks])
    sites = sum(len(block.sites) for block in blocks)
    eps = prompter.transform.norm.eps
    return list(_AttendedPrompts.apply(prompter.attention, sites, prompt, weight, bias, eps).unbind(0))


def site(adapter: HybridAdapter, weights: SiteWeights, attended: Tensor, x: Tensor) -> Tensor:
    """``adapter(x) + prompter(prompt)`` as one operation. (B, H, W, C) -> the same.

    It keeps its narrow maps and, in place of x, its result, which the block's next norm keeps anyway. The
    backward pass computes what was added once more and subtracts it, and runs the bottleneck again.

    Args:
        weights: of the site.
        attended: what :func:`attended_prompts` gives for the site, (B, H, W, r).
    """
    return adapted_residual(
        x,
        weights,
        adapter.transform.norm.eps,
        inner=partial(_bottleneck, adapter, adapter.mix.norm.training),
        parameters=tuple(adapter.mix.parameters()),
        prompt=attended,
        dropout=adapter.dropout.p if adapter.training else 0.0,
    )


def _bottleneck(adapter: HybridAdapter, training: bool, u: Tensor, update_statistics: bool = True) -> Tensor:
    """The adapter's bottleneck, its norm in the mode `training` of the forward pass.

    The model may be in the other mode by the time of the backward pass.
    """
    norm = adapter.mix.norm
    now, norm.training = norm.training, training
    try:
        return adapter.bottleneck(u, update_statistics)
    finally:
        norm.training = now


def adapted_residual(
    x: Tensor,
    weights: SiteWeights,
    eps: float,
    inner: Callable[..., Tensor],
    parameters: Sequence[Tensor],
    prompt: Tensor,
    dropout: float,
) -> Tensor:
    """``x + up(dropout(inner(down(x)))) + gelu(prompt_up(prompt))``, ``down`` as in :func:`fold`.

    Args:
        x: (B, H, W, C) stream.
        inner: (B, H, W, h) -> the same; called with `update_statistics=False` in the backward pass, where it
            must not change a buffer.
        parameters: all parameters that `inner` uses.
        prompt: (B, H, W, r).
        dropout: rate in 0..1, 0 in evaluation.
    """
    return _AdaptedResidual.apply(inner, eps, dropout, x, prompt, *weights, *parameters)


class _AttendedPrompts(torch.autograd.Function):
    @staticmethod
    def forward(ctx, attention, sites, prompt, weight, bias, eps):
        z, mean, rstd = _project(prompt, weight, eps)
        ctx.save_for_backward(prompt, weight, bias, z, mean, rstd)
        ctx.attention, ctx.sites, ctx.autocast = attention, sites, _autocast(prompt)
        return _by_site(attention(z + bias), sites)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        prompt, weight, bias, z, mean, rstd = ctx.saved_tensors
        with ctx.autocast():
            with torch.enable_grad():
                u = (z + bias).detach().requires_grad_()
                attended = _by_site(ctx.attention(u), ctx.sites)
            (grad_u,) = torch.autograd.grad(attended, u, grad)
            grad_prompt, grad_weight = _project_backward(grad_u, prompt, weight, z, mean, rstd)
        return None, None, grad_prompt, grad_weight, _total(grad_u, bias), None


def _by_site(x: Tensor, sites: int) -> Tensor:
    """(B, H, W, sites r) -> (sites, B, H, W, r)."""
    return x.unflatten(-1, (sites, -1)).movedim(-2, 0).contiguous()


class _AdaptedResidual(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx, inner, eps, dropout, x, prompt, down, down_bias, up, up_bias, prompt_up, prompt_bias, *parameters
    ):
        z, mean, rstd = _project(x, down, eps)
        hidden = inner(z + down_bias)
        keep = torch.empty_like(hidden, dtype=torch.bool).bernoulli_(1 - dropout) if dropout else None
        pre = F.linear(prompt, prompt_up, prompt_bias)
        y = F.linear(_drop(hidden, keep, dropout), up, up_bias).to(x.dtype)
        y += x
        y += F.gelu(pre)
        weights = down, down_bias, up, up_bias, prompt_up, prompt_bias
        ctx.save_for_backward(y, z, mean, rstd, keep, prompt, *weights)
        ctx.inner, ctx.parameters, ctx.dropout, ctx.autocast = inner, parameters, dropout, _autocast(x)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        y, z, mean, rstd, keep, prompt, *weights = ctx.saved_tensors
        down, down_bias, up, up_bias, prompt_up, prompt_bias = weights
        with ctx.autocast():
            with torch.enable_grad():
                u = (z + down_bias).detach().requires_grad_()
                hidden = _drop(ctx.inner(u, update_statistics=False), keep, ctx.dropout)
            pre = F.linear(prompt, prompt_up, prompt_bias)
            x = y - F.linear(hidden.detach(), up, up_bias)
            x -= F.gelu(pre)

            narrow = grad.to(hidden.dtype)  # once for three products
            grad_up = _outer(narrow, hidden.detach(), up)
            grad_hidden = F.linear(narrow, up.T)
            wanted = [p for p in ctx.parameters if p.requires_grad]
            grad_u, *inner_grads = torch.autograd.grad(hidden, [u, *wanted], grad_hidden)
            inner_grads = iter(inner_grads)
            grads = [next(inner_grads) if p.requires_grad else None for p in ctx.parameters]

            grad_pre = torch.ops.aten.gelu_backward(narrow, pre)
            grad_prompt_up = _outer(grad_pre, prompt, prompt_up)
            grad_prompt = F.linear(grad_pre, prompt_up.T)

            grad_x, grad_down = _project_backward(grad_u, x, down, z, mean, rstd)
            grad_x += grad
        return (
            None, None, None, grad_x, grad_prompt, grad_down, _total(grad_u, down), grad_up,
            _total(grad, up), grad_prompt_up, _total(grad_pre, prompt_up), *grads,
        )  # fmt: skip


def _autocast(x: Tensor) -> Callable[[], contextlib.AbstractContextManager]:
    """The present state of autocast, as a context to enter in the backward pass."""
    kind = x.device.type
    if not torch.amp.is_autocast_available(kind):  # the meta device, on which parameters are counted
        return contextlib.nullcontext
    on, dtype = is_autocast_on(kind), torch.get_autocast_dtype(kind)
    return lambda: torch.autocast(kind, dtype, enabled=on)


def _drop(x: Tensor, keep: Tensor | None, rate: float) -> Tensor:
    return x if keep is None else x * keep * (1 / (1 - rate))


def _project(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """The projection without its bias, and mean and 1/std of every token in float32."""
    # Called for its statistics: torch.var_mean takes nine times as long on a CPU.
    normed, mean, rstd = torch.native_layer_norm(x, x.shape[-1:], None, None, eps)
    return F.linear(normed, weight), mean, rstd


def _project_backward(grad, x, weight, z, mean, rstd) -> tuple[Tensor, Tensor]:
    """The gradients of x, in a new tensor, and of the weight."""
    scaled = grad * rstd
    # Through the standard deviation: d rstd / dx = -rstd^3 (x - mean) / C.
    slope = (grad * z).sum(-1, keepdim=True, dtype=rstd.dtype) * (rstd.square() / x.shape[-1])
    grad_x = F.linear(scaled.to(z.dtype), weight.T).to(x.dtype)
    return grad_x.addcmul_(slope, x, value=-1).add_(slope * mean), _outer(scaled, x, weight)


def _outer(left: Tensor, right: Tensor, like: Tensor) -> Tensor:
    """The sum over all tokens of the outer products, (k, C), in the type of the weight `like`."""
    return (left.flatten(0, -2).T @ right.flatten(0, -2)).to(like.dtype)


def _total(grad: Tensor, like: Tensor) -> Tensor:
    """The gradient of the bias `like`: the sum over all tokens."""
    return grad.flatten(0, -2).sum(0, dtype=torch.promote_types(like.dtype, torch.float32)).to(like.dtype)
