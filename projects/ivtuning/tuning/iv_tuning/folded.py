"""IV-tuning's adapters in evaluation: constants are multiplied out once, wide maps are read seldom.

The affine maps of the norms become part of the projections behind them, running statistics part of the first
1x1 convolution, the partial residual part of the depthwise convolution's center and of the down-projection's
rows, and every bias a row of the weight behind it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.optimizer import register_optimizer_step_post_hook

if TYPE_CHECKING:
    from .modules import HybridAdapter, PromptAdapter
    from .tuner import IVBlockAdapters

# Columns of ones that carry a bias through a product; tensor cores want multiples of 8.
ONES = 8


class Site(NamedTuple):
    """The constants of one site; n = B H W tokens, h and r the widths of the bottlenecks."""

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
class Folded:
    """The constants of a block's two sites, and the tensors they were made of.

    `carried`: a block's prompt, and what the second site will need of it.
    """

    made_of: list[tuple[Tensor, int]]
    dtype: torch.dtype
    prompt_eps: float
    prompt_down: Tensor  # (2 r, C)
    prompt_bias: Tensor
    sites: tuple[Site, Site]
    carried: tuple[Tensor, Tensor] | None = None


# Outside the modules: no state dict, copy or pickle of them holds constants.
_known: WeakKeyDictionary[IVBlockAdapters, Folded] = WeakKeyDictionary()
# Fused optimizers change parameters without counting up their versions.
register_optimizer_step_post_hook(lambda *_: _known.clear())


def forget(adapters: IVBlockAdapters) -> None:
    """Drop what was folded."""
    _known.pop(adapters, None)


def run(adapters: IVBlockAdapters, index: int, x: Tensor, prompt: Tensor) -> Tensor | None:
    """Site `index` (0 or 1) on `x`, (B, H, W, C), which it may write its result into.

    None where nothing is folded: with gradients, in training, with a norm that has no running statistics, and
    for parameters whose changes go unnoticed (made in inference mode).
    """
    if torch.is_grad_enabled() or not _constant(adapters):
        return None
    constants = _constants(adapters, x)
    if constants is None:
        return None
    carried, constants.carried = constants.carried, None
    if index and carried is not None and carried[0] is prompt:
        return _add_site(constants.sites[1], x, carried[1])
    both = _prompts(constants, prompt)
    if not index:
        constants.carried = prompt, both[1]
    return _add_site(constants.sites[index], x, both[index])


def _constants(adapters: IVBlockAdapters, x: Tensor) -> Folded | None:
    """What is known, made anew where a parameter or buffer is no longer what it was."""
    tensors = _tensors(adapters)
    kind = x.device.type
    dtype = torch.get_autocast_dtype(kind) if _autocast(kind) else x.dtype
    found = _known.get(adapters)
    if found is None or found.dtype != dtype or not _same(found.made_of, tensors):
        if any(t.is_inference() for t in tensors):
            return None
        _known[adapters] = found = _fold(adapters, tensors, dtype)
    return found


def _prompts(constants: Folded, prompt: Tensor) -> tuple[Tensor, Tensor]:
    """What both prompt adapters make of the prompt between their projections: (n, r + ONES) each."""
    batch = len(prompt)
    normed = F.layer_norm(prompt, prompt.shape[-1:], eps=constants.prompt_eps)
    z = F.linear(normed.to(constants.dtype), constants.prompt_down, constants.prompt_bias)
    z = z.view(batch, -1, z.shape[-1])
    deviation = (z - z.mean(1, keepdim=True)).square_()
    freedom = max(z.shape[1] - 1, 1)
    scale = 4 * (deviation.sum(1, keepdim=True) / freedom + 1e-4)
    a = F.gelu(z * deviation.div_(scale).add_(0.5).sigmoid_()).flatten(0, 1)
    return tuple(_with_ones(half) for half in a.chunk(2, -1))


def _add_site(site: Site, x: Tensor, prompt: Tensor) -> Tensor:
    """``adapter(x) + prompter(prompt)``, written into x where its layout allows. (B, H, W, C) -> the same.

    Args:
        prompt: see :func:`_prompts`.
    """
    batch, height, width, channels = x.shape
    flat = x.reshape(-1, channels)
    normed = F.layer_norm(flat, (channels,), eps=site.eps).to(site.down.dtype)
    u = F.linear(normed, site.down, site.down_bias)
    del normed  # its memory is warm: the last product takes it
    part = len(site.depthwise)
    size = (width, height) if site.swap else (height, width)
    first = u[:, :part].view(batch, *size, part).permute(0, 3, 1, 2)
    first = F.conv2d(first, site.depthwise, site.depthwise_bias, padding=1, groups=part)
    u[:, :part] = first.permute(0, 2, 3, 1).reshape(-1, part)
    u.addmm_(F.linear(u, site.conv1, site.conv1_bias).relu_(), site.conv2)
    _add_product(flat, _with_ones(F.gelu(u)), site.up)
    flat += torch.ops.aten.gelu_(prompt @ site.prompt_up)
    return flat.view(x.shape)


def _add_product(x: Tensor, a: Tensor, weight: Tensor) -> None:
    if x.dtype == a.dtype:
        x.addmm_(a, weight)
    else:
        x += a @ weight


def _with_ones(x: Tensor) -> Tensor:
    return F.pad(x, (0, ONES), value=1.0)


def _autocast(kind: str) -> bool:
    return torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)


def _constant(adapters: IVBlockAdapters) -> bool:
    norms = adapters.adapter1.mix.norm, adapters.adapter2.mix.norm
    return not adapters.training and all(
        isinstance(norm, _BatchNorm) and not norm.training and norm.running_mean is not None for norm in norms
    )


def _tensors(adapters: IVBlockAdapters) -> list[Tensor]:
    return [
        tensor
        for module in adapters.modules()
        for tensor in (*module._parameters.values(), *module._buffers.values())
        if tensor is not None
    ]


def _same(made_of: list[tuple[Tensor, int]], tensors: list[Tensor]) -> bool:
    return len(made_of) == len(tensors) and all(
        old.data_ptr() == new.data_ptr() and version == new._version
        for (old, version), new in zip(made_of, tensors, strict=True)
    )


def _fold(adapters: IVBlockAdapters, tensors: list[Tensor], dtype: torch.dtype) -> Folded:
    # Kept as they are now: memory of a replaced parameter must not be given to the next one.
    made_of = [(t.detach(), t._version) for t in tensors]
    kind = tensors[0].device.type
    with torch.autocast(kind, enabled=False) if _autocast(kind) else torch.no_grad():
        down = [_affine(p.transform, p.down) for p in (adapters.prompt1, adapters.prompt2)]
        return Folded(
            made_of,
            dtype,
            adapters.prompt1.transform.norm.eps,
            *(torch.cat(parts).to(dtype) for parts in zip(*down, strict=True)),
            (
                _site(adapters.adapter1, adapters.prompt1, dtype),
                _site(adapters.adapter2, adapters.prompt2, dtype),
            ),
        )


def _affine(transform: nn.Module, linear: nn.Linear) -> tuple[Tensor, Tensor]:
    """Weight and bias of ``linear(norm(x) * gamma + beta)`` for a normed x without affine map."""
    norm = transform.norm
    weight = linear.weight * (norm.weight * transform.gamma)
    shift = torch.addcmul(transform.beta, norm.bias, transform.gamma)
    return weight, F.linear(shift, linear.weight, linear.bias)


def _site(adapter: HybridAdapter, prompter: PromptAdapter, dtype: torch.dtype) -> Site:
    mix = adapter.mix
    part = mix.part
    down, down_bias = (t.clone() for t in _affine(adapter.transform, adapter.down))
    # concat(depthwise(first), rest) + (first, rest)
    down[part:] *= 2
    down_bias[part:] *= 2
    depthwise = mix.depthwise.weight.clone()
    depthwise[:, :, 1, 1] += 1
    # The last convolution's bias joins its residual already before the first one, which takes it off again.
    late = mix.conv2.bias
    down_bias[part:] += late[part:]
    depthwise_bias = mix.depthwise.bias + late[:part]
    scale = mix.norm.weight * (mix.norm.running_var + mix.norm.eps).rsqrt()
    conv1 = mix.conv1.weight.flatten(1) * scale[:, None]
    conv1_bias = torch.addcmul(mix.norm.bias, mix.conv1.bias - mix.norm.running_mean, scale) - conv1 @ late
    weight, bias = prompter.up.weight, prompter.up.bias
    if not isinstance(prompter.scale, nn.Identity):
        weight = weight * prompter.scale.gamma[:, None]
        bias = torch.addcmul(prompter.scale.beta, bias, prompter.scale.gamma)
    constants = (
        down,
        down_bias,
        depthwise,
        depthwise_bias,
        conv1,
        conv1_bias,
        mix.conv2.weight.flatten(1).T,
        _rows(adapter.up.weight, adapter.up.bias),
        _rows(weight, bias),
    )
    return Site(
        adapter.transform.norm.eps, adapter.legacy_hw_swap, *(c.to(dtype).contiguous() for c in constants)
    )


def _rows(weight: Tensor, bias: Tensor) -> Tensor:
    """(C, k) and (C,) -> (k + ONES, C), for an input with ONES more columns of ones."""
    return torch.cat([weight.T, bias[None], bias.new_zeros(ONES - 1, len(bias))])
