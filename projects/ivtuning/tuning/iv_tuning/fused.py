"""IV-tuning's sites as two autograd operations that keep little and read wide maps few times.

Both are exact: they compute what the modules compute, gradients included, up to rounding. What is kept for
the backward pass matters because the trunk around them is frozen and keeps no input of any linear layer.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...utils.precision import is_autocast_on
from .modules import FeatureTransform, HybridAdapter, PromptAdapter


def site(adapter: HybridAdapter, prompter: PromptAdapter, x: Tensor, prompt: Tensor) -> Tensor:
    """``adapter(x) + prompter(prompt)``, with little kept for the backward pass. (B, H, W, C) -> the same."""
    p = normed_projection(prompt, *fold(prompter.transform, prompter.down), prompter.transform.norm.eps)
    return adapted_residual(
        x,
        down=fold(adapter.transform, adapter.down),
        eps=adapter.transform.norm.eps,
        inner=adapter.bottleneck,
        parameters=tuple(adapter.mix.parameters()),
        up=adapter.up,
        prompt=prompter.attention(p),
        prompt_up=prompter.scaled_up(),
        dropout=adapter.dropout.p if adapter.training else 0.0,
    )


def fold(transform: FeatureTransform, layer: nn.Linear) -> tuple[Tensor, Tensor]:
    """Weight (k, C) and bias (k,) with ``layer(transform(x)) == (x @ weight.T) / std(x) + bias``.

    The rows of the weight sum to 0, so x need not be centered, and no large mean has to cancel.
    """
    weight, bias = transform.fold_into(layer)
    return weight - weight.mean(1, keepdim=True), bias


def normed_projection(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """``(x @ weight.T) / sqrt(var(x) + eps) + bias``, over the last axis of x; the weight's rows sum to 0.

    (..., C) -> (..., k). It keeps x, two numbers for each token and its own narrow result.
    """
    return _NormedProjection.apply(x, weight, bias, eps)


def adapted_residual(
    x: Tensor,
    down: tuple[Tensor, Tensor],
    eps: float,
    inner: Callable[..., Tensor],
    parameters: Sequence[Tensor],
    up: nn.Linear,
    prompt: Tensor,
    prompt_up: tuple[Tensor, Tensor],
    dropout: float,
) -> Tensor:
    """``x + up(dropout(inner(normed_projection(x, *down)))) + gelu(prompt @ w.T + b)`` as one operation.

    It keeps its narrow maps and, in place of x, its result, which the block's next norm keeps anyway. The
    backward pass computes what was added once more and subtracts it, and runs `inner` again.

    Args:
        x: (B, H, W, C) stream.
        down: see :func:`fold`.
        inner: (B, H, W, h) -> the same; called with `update_statistics=False` in the backward pass, where it
            must not change a buffer.
        parameters: all parameters that `inner` uses.
        prompt: (B, H, W, r).
        prompt_up: weight (C, r) and bias (C,).
        dropout: rate in 0..1, 0 in evaluation.
    """
    return _AdaptedResidual.apply(
        inner, eps, dropout, x, *down, up.weight, up.bias, prompt, *prompt_up, *parameters
    )


class _NormedProjection(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, eps):
        z, mean, rstd = _project(x, weight, eps)
        ctx.save_for_backward(x, weight, z, mean, rstd)
        ctx.autocast = _autocast(x)
        return z + bias.to(z.dtype)

    @staticmethod
    def backward(ctx, grad):
        x, weight, z, mean, rstd = ctx.saved_tensors
        with ctx.autocast():
            grad_x, grad_weight = _project_backward(grad, x, weight, z, mean, rstd)
        return grad_x, grad_weight, _total(grad, weight), None


class _AdaptedResidual(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx, inner, eps, dropout, x, down, down_bias, up, up_bias, prompt, prompt_up, prompt_bias, *parameters
    ):
        z, mean, rstd = _project(x, down, eps)
        hidden = inner(z + down_bias.to(z.dtype))
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
    def backward(ctx, grad):
        y, z, mean, rstd, keep, prompt, *weights = ctx.saved_tensors
        down, down_bias, up, up_bias, prompt_up, prompt_bias = weights
        with ctx.autocast():
            with torch.enable_grad():
                u = (z + down_bias.to(z.dtype)).detach().requires_grad_()
                hidden = _drop(ctx.inner(u, update_statistics=False), keep, ctx.dropout)
            pre = F.linear(prompt, prompt_up, prompt_bias)
            x = y - F.linear(hidden.detach(), up, up_bias)
            x -= F.gelu(pre)

            grad_up = _outer(grad, hidden.detach(), up)
            grad_hidden = F.linear(grad, up.T).to(hidden.dtype)
            wanted = [p for p in ctx.parameters if p.requires_grad]
            grad_u, *inner_grads = torch.autograd.grad(hidden, [u, *wanted], grad_hidden)
            inner_grads = iter(inner_grads)
            grads = [next(inner_grads) if p.requires_grad else None for p in ctx.parameters]

            grad_pre = torch.ops.aten.gelu_backward(grad.to(pre.dtype), pre)
            grad_prompt_up = _outer(grad_pre, prompt, prompt_up)
            grad_prompt = F.linear(grad_pre, prompt_up.T).to(prompt.dtype)

            grad_x, grad_down = _project_backward(grad_u, x, down, z, mean, rstd)
            grad_x += grad
        return (
            None, None, None, grad_x, grad_down, _total(grad_u, down), grad_up, _total(grad, up),
            grad_prompt, grad_prompt_up, _total(grad_pre, prompt_up), *grads,
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
    """The gradient of a bias: the sum over all tokens, in the type of the bias `like`."""
    return grad.flatten(0, -2).sum(0, dtype=like.dtype)
