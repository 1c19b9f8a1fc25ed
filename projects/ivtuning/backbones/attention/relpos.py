"""Attention with decomposed relative positions (arXiv 2112.01526, 4.1), without (N, N) scores and bias."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from timm.models import vision_transformer_sam
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from ...errors import UserError
from . import triton_relpos
from .choice import products_are_faster

# Number of scores in one tile: in float32 half of a 4 MB cache, which two cores share or one has in part.
TILE = 1 << 19


class RelPosAttention(vision_transformer_sam.Attention):
    """Multi-head attention with decomposed relative positions, (B, H, W, C) -> the same.

    The bias is a sum of a row and a column term, ``bias[q, k] = a[q, row(k)] + b[q, col(k)]``. The fast ways
    use that, and keep qkv alone for the backward pass.

    Attributes:
        backend: "plain" is the definition, with (N, N) scores and bias. "fused" computes tile by tile in full
            precision on a CPU, and elsewhere by torch's fused kernels as one product without a bias. "triton"
            uses CUDA kernels that know the bias, "auto" takes these where they can run, else "fused", or
            plain products where these are faster.
    """

    backend = "auto"

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, self.head_dim))
        products = self.backend == "auto" and products_are_faster(qkv, x.shape[1] * x.shape[2])
        if self.backend == "plain" or (products and not self.use_rel_pos):
            out = _plain(qkv, *self._tables())
        elif not self.use_rel_pos:
            q, k, v = _heads(qkv)
            out = F.scaled_dot_product_attention(q, k, v)
        elif self._by_triton(qkv):
            tables = (_table(t, size) for t, size in zip(self._tables(), x.shape[1:3], strict=True))
            return self.proj(triton_relpos.attention(qkv, *tables))
        else:
            inputs = qkv, *self._tables()
            # A compiler would unroll the tiles.
            full = qkv.dtype in (torch.float32, torch.float64)
            if qkv.is_cpu and full and not torch.compiler.is_compiling():
                out = _Tiled.apply(*inputs)
            elif torch.is_grad_enabled():
                form = _plain if products else _fused
                out = checkpoint(form, *inputs, use_reentrant=False, preserve_rng_state=False)
            else:
                out = _fused(*inputs)
        return self.proj(out.unflatten(0, (x.shape[0], -1)).permute(0, 2, 1, 3).reshape(x.shape))

    def _tables(self) -> tuple[Tensor, ...]:
        return (self.rel_pos_h, self.rel_pos_w) if self.use_rel_pos else ()

    def _by_triton(self, qkv: Tensor) -> bool:
        if self.backend == "fused" or torch.compiler.is_compiling():
            return False
        if self.backend == "triton" and (reason := triton_relpos.unsupported(qkv)):
            raise UserError(f"attn_backend=triton does not work here: {reason}; give attn_backend=auto")
        return self.backend == "triton" or triton_relpos.serves(qkv)


def _plain(qkv: Tensor, *tables: Tensor) -> Tensor:
    """The definition: softmax(q k^T / sqrt(d) + bias) v for every head, (B * heads, N, d)."""
    if not tables:
        q, k, v = _heads(qkv)
        bias = 0.0
    else:
        q, k, v, a, b = _terms(qkv, *tables)
        bias = (a[..., :, None] + b[..., None, :]).flatten(-2)
    scores = (q * q.shape[-1] ** -0.5) @ k.mT
    return (scores + bias).softmax(-1) @ v


def _table(rel_pos: Tensor, size: int) -> Tensor:
    """The table of relative positions, resized to a side of `size` tokens: (2 size - 1, d)."""
    length = 2 * size - 1
    # A symbolic size is not compared: its graph must serve all. Resizing to an equal one changes nothing.
    if isinstance(length, int) and len(rel_pos) == length:
        return rel_pos
    return F.interpolate(rel_pos.T[None], size=length, mode="linear")[0].T


def _distances(rel_pos: Tensor, size: int) -> Tensor:
    """The table's rows for the distance of every query to every key, (size, size, d)."""
    place = torch.arange(size, device=rel_pos.device)
    return _table(rel_pos, size)[place[:, None] - place + size - 1]


def _heads(qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(B, H, W, 3, heads, d) -> q, k and v, each (B * heads, N, d)."""
    return qkv.permute(3, 0, 4, 1, 2, 5).flatten(1, 2).flatten(2, 3).unbind(0)


def _terms(qkv: Tensor, rel_pos_h: Tensor, rel_pos_w: Tensor) -> tuple[Tensor, ...]:
    """q, k, v and the terms a (B * heads, N, H) and b (B * heads, N, W)."""
    height, width = qkv.shape[1:3]
    q, k, v = _heads(qkv)
    rows = _distances(rel_pos_h, height).to(q.dtype)
    cols = _distances(rel_pos_w, width).to(q.dtype)
    grid = q.unflatten(1, (height, width))
    a = torch.einsum("nhwc,hkc->nhwk", grid, rows).flatten(1, 2)
    b = torch.einsum("nhwc,wkc->nhwk", grid, cols).flatten(1, 2)
    return q, k, v, a, b


def _fused(qkv: Tensor, rel_pos_h: Tensor, rel_pos_w: Tensor) -> Tensor:
    """As one plain product: a and b beside the scaled query, one-hot row and column of the key beside it."""
    q, k, v, a, b = _terms(qkv, rel_pos_h, rel_pos_w)
    height, width, dim = a.shape[-1], b.shape[-1], q.shape[-1]
    row = torch.eye(height, dtype=q.dtype, device=q.device).repeat_interleave(width, 0)
    col = torch.eye(width, dtype=q.dtype, device=q.device).repeat(height, 1)
    one_hot = torch.cat([row, col], -1).expand(k.shape[0], -1, -1)
    # Flash kernels want four axes and one head size for all three, so the value is padded and the output cut.
    out = F.scaled_dot_product_attention(
        torch.cat([q * dim**-0.5, a, b], -1)[None],
        torch.cat([k, one_hot], -1)[None],
        F.pad(v, (0, height + width))[None],
        scale=1.0,
    )
    return out[0, ..., :dim]


class _Tiled(torch.autograd.Function):
    """Explicit attention on tiles that stay in the cache. The backward pass computes each tile again."""

    @staticmethod
    def forward(ctx, *inputs):
        ctx.save_for_backward(*inputs)
        q, k, v, a, b = _terms(*inputs)
        out = torch.empty_like(q)
        scores = _buffer(q)
        for head, query in _tiles(q):
            weights = _weights(q[head, query], k[head], a[head, query], b[head, query], scores)
            torch.bmm(weights, v[head], out=out[head, query])
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        with torch.enable_grad():
            needed = zip(ctx.saved_tensors, ctx.needs_input_grad, strict=True)
            inputs = [t.detach().requires_grad_(need) for t, need in needed]
            terms = _terms(*inputs)
        q, k, v, a, b = (t.detach() for t in terms)
        scale = q.shape[-1] ** -0.5
        grad_q, grad_a, grad_b = (torch.empty_like(t) for t in (q, a, b))
        grad_k, grad_v = torch.zeros_like(k), torch.zeros_like(v)
        weights, scores = _buffer(q), _buffer(q)
        for head, query in _tiles(q):
            p = _weights(q[head, query], k[head], a[head, query], b[head, query], weights)
            g = grad[head, query]
            torch.baddbmm(grad_v[head], p.mT, g, out=grad_v[head])
            s = tile_scores_backward(p, v[head], g, scores)
            torch.bmm(s, k[head], out=grad_q[head, query])
            torch.baddbmm(grad_k[head], s.mT, q[head, query], out=grad_k[head])
            grid = s.unflatten(-1, (a.shape[-1], b.shape[-1]))
            torch.sum(grid, -1, out=grad_a[head, query])
            torch.sum(grid, -2, out=grad_b[head, query])
        grads = grad_q.mul_(scale), grad_k.mul_(scale), grad_v, grad_a, grad_b
        # Where only the tables train, q, k and v are constants.
        dependent = [(t, g) for t, g in zip(terms, grads, strict=True) if t.requires_grad]
        wanted = [t for t in inputs if t.requires_grad]
        outputs, output_grads = zip(*dependent, strict=True)
        input_grads = iter(torch.autograd.grad(outputs, wanted, output_grads))
        return tuple(next(input_grads) if t.requires_grad else None for t in inputs)


def _tiles(q: Tensor) -> Iterator[tuple[slice, slice]]:
    """Slices of heads and queries of q (heads, N, d) whose scores fill a tile: some heads or part of one."""
    heads, n = q.shape[:2]
    some, part = max(1, TILE // n**2), max(1, TILE // n)
    for head in range(0, heads, some):
        for query in range(0, n, part):
            yield slice(head, head + some), slice(query, query + part)


def _buffer(q):
    heads, n = q.shape[:2]
    return q.new_empty(min(heads, max(1, TILE // n**2)) * min(n, max(1, TILE // n)) * n)


def _weights(q: Tensor, k: Tensor, a: Tensor, b: Tensor, buffer: Tensor) -> Tensor:
    """The softmax of a tile's scores, in the buffer's memory."""
    grid = buffer[: a.numel() * b.shape[-1]].view(*a.shape, b.shape[-1])
    torch.add(a[..., None], b[..., None, :], out=grid)
    return tile_weights(grid.flatten(2), q, k)


def tile_weights(bias: Tensor, q: Tensor, k: Tensor) -> Tensor:
    """The softmax of a tile's scaled scores and their bias, in the bias' memory."""
    scores = torch.baddbmm(bias, q, k.mT, alpha=q.shape[-1] ** -0.5, out=bias)
    return torch.softmax(scores, -1, out=scores)


def tile_scores_backward(p: Tensor, v: Tensor, grad: Tensor, buffer: Tensor) -> Tensor:
    """The gradient of a tile's scores, in the buffer's memory; `grad` is that of p @ v, p their softmax."""
    s = torch.bmm(grad, v.mT, out=buffer[: p.numel()].view(p.shape))
    return torch.ops.aten._softmax_backward_data.out(s, p, -1, p.dtype, grad_input=s)
