"""Swin's window attention (arXiv 2103.14030, 3.2) that keeps neither scores nor their softmax."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from timm.models import swin_transformer
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from .choice import products_are_faster
from .relpos import TILE, tile_scores_backward, tile_weights


class SwinAttention(swin_transformer.WindowAttention):
    """timm's window attention, faster.

    Attributes:
        backend: "plain" is the definition, timm's own with explicit scores. "fused" computes tiles of windows
            in full precision on a CPU, and uses torch's fused kernels elsewhere. "auto" does the same, but
            forms plain products where these are faster, and forms them again in the backward pass.
    """

    backend = "auto"

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.fused_attn = False  # timm's own forward pass is the plain one

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Windows (B * nW, N, C) and their mask, (nW, N, N) or None -> (B * nW, N, C).

        A mask is 0 where a query may attend. Tokens of a window come from up to four parts of the map and
        attend within their part, so a window hides something if its first token does.
        """
        if self.backend == "plain":
            return super().forward(x, mask)
        bias = self._get_rel_pos_bias()[0]  # (heads, N, N)
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, -1))
        full = qkv.dtype == bias.dtype in (torch.float32, torch.float64)
        dropout = self.attn_drop.p if self.training else 0.0
        # A compiler would unroll the tiles.
        if qkv.is_cpu and full and not dropout and not torch.compiler.is_compiling():
            out = _TiledWindows.apply(qkv, bias, mask)
        elif self.backend == "auto" and not dropout and products_are_faster(qkv, x.shape[1]):
            out = checkpoint(_products, qkv, bias, mask, use_reentrant=False, preserve_rng_state=False)
        else:
            out = _fused(qkv, bias, mask, dropout)
        return self.proj_drop(self.proj(out.reshape(x.shape)))


def _fused(qkv: Tensor, bias: Tensor, mask: Tensor | None, dropout: float) -> Tensor:
    """(B * nW, N, 3, heads, d) -> (B, nW, N, heads, d) or (B * nW, N, heads, d)."""
    q, k, v, bias = _terms(qkv, bias, mask)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout)
    return out.unflatten(1, (-1, qkv.shape[3])).transpose(2, 3)


def _products(qkv: Tensor, bias: Tensor, mask: Tensor | None) -> Tensor:
    """:func:`_fused` with explicit scores."""
    q, k, v, bias = _terms(qkv, bias, mask)
    out = ((q * q.shape[-1] ** -0.5) @ k.mT + bias).softmax(-1) @ v
    return out.unflatten(1, (-1, qkv.shape[3])).transpose(2, 3)


def _terms(qkv: Tensor, bias: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """q, k, v, (images, windows * heads, N, d), and what is added to the scores, all of one type."""
    if mask is None:
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    else:
        # Windows beside the heads, since the mask is that of one image.
        q, k, v = qkv.unflatten(0, (-1, mask.shape[0])).permute(3, 0, 1, 4, 2, 5).flatten(2, 3).unbind(0)
        bias = (bias + mask[:, None]).flatten(0, 1)
    return q, k, v, bias[None].to(q.dtype)


class _TiledWindows(torch.autograd.Function):
    """Explicit attention on some windows at a time, which stay in the cache. The backward pass repeats it.

    torch's fused kernel for a CPU has no gradient for the bias, and wants a mask for every head.
    """

    @staticmethod
    def forward(ctx, qkv, bias, mask):
        ctx.save_for_backward(qkv, bias)
        ctx.mask = mask  # an attribute, since a mask made in inference mode cannot be saved
        seams = _seams(mask)
        out = qkv.new_empty(qkv[:, :, 0].shape)
        buffer = _buffer(qkv)
        for some in _tiles(qkv):
            q, k, v = _heads(qkv[some])
            weights = _weights(q, k, bias, mask, seams, some, buffer)
            out[some] = _tokens(torch.bmm(weights, v), bias)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        (qkv, bias), mask = ctx.saved_tensors, ctx.mask
        seams = _seams(mask)
        grad_qkv = torch.empty_like(qkv)
        grad_bias = torch.zeros_like(bias) if ctx.needs_input_grad[1] else None
        first, second = _buffer(qkv), _buffer(qkv)
        scale = qkv.shape[-1] ** -0.5
        for some in _tiles(qkv):
            q, k, v = _heads(qkv[some])
            p = _weights(q, k, bias, mask, seams, some, first)
            g = grad[some].transpose(1, 2).flatten(0, 1)
            s = tile_scores_backward(p, v, g, second)
            grads = torch.bmm(s, k).mul_(scale), torch.bmm(s.mT, q).mul_(scale), torch.bmm(p.mT, g)
            for i, part in enumerate(grads):
                grad_qkv[some, :, i] = _tokens(part, bias)
            if grad_bias is not None:
                grad_bias += s.unflatten(0, (-1, len(bias))).sum(0)
        return grad_qkv, grad_bias, None


def _seams(mask: Tensor | None) -> list[bool]:
    """Which windows hide something: those whose first token may not attend to all others."""
    return [] if mask is None else mask[:, 0].any(-1).tolist()


def _tiles(qkv: Tensor) -> Iterator[slice]:
    """Slices of windows whose scores fill a tile."""
    step = _step(qkv)
    for start in range(0, len(qkv), step):
        yield slice(start, min(start + step, len(qkv)))


def _step(qkv: Tensor) -> int:
    return max(1, TILE // (qkv.shape[3] * qkv.shape[1] ** 2))


def _buffer(qkv: Tensor) -> Tensor:
    return qkv.new_empty(min(len(qkv), _step(qkv)) * qkv.shape[3] * qkv.shape[1] ** 2)


def _heads(qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(n, N, 3, heads, d) -> q, k and v, each (n * heads, N, d)."""
    return qkv.permute(2, 0, 3, 1, 4).flatten(1, 2).unbind(0)


def _tokens(x: Tensor, bias: Tensor) -> Tensor:
    """(n * heads, N, d) -> (n, N, heads, d)."""
    return x.unflatten(0, (-1, len(bias))).transpose(1, 2)


def _weights(
    q: Tensor, k: Tensor, bias: Tensor, mask: Tensor | None, seams: list[bool], some: slice, buffer: Tensor
) -> Tensor:
    """The softmax of a tile's scores, (n * heads, N, N), in the buffer's memory."""
    count = len(q) // len(bias)
    scores = buffer[: count * bias.numel()].view(count, *bias.shape)
    scores.copy_(bias)
    for i in range(count if seams else 0):
        window = (some.start + i) % len(seams)
        if seams[window]:
            scores[i] += mask[window]
    return tile_weights(scores.flatten(0, 1), q, k)
