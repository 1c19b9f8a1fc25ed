"""Attention with decomposed relative positions on CUDA: one Triton operation without (N, N) scores.

torch's fused kernels have no such bias. As an (N, N) map it fills the memory; as heads of width 64 + H + W it
triples the arithmetic and copies everything (docs/benchmarks/gpu.md).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ...utils.triton_support import padded_width, triton, why_no_triton

if triton is not None:
    from . import triton_kernels as kernels

WIDEST = 128  # largest side of a map in tokens, and width of a head, whose tiles fit the registers
TYPES = (torch.float32, torch.bfloat16, torch.float16)


def serves(qkv: Tensor) -> bool:
    """Whether the kernels can take `qkv`, (B, H, W, 3, heads, d), and are worth it: on CUDA alone."""
    return qkv.is_cuda and unsupported(qkv) is None


def unsupported(qkv: Tensor) -> str | None:
    """Why the kernels cannot take `qkv`, (B, H, W, 3, heads, d), or None where they can."""
    height, width, _, _, d = qkv.shape[1:]
    if reason := why_no_triton(qkv):
        return reason
    if qkv.dtype not in TYPES:
        return f"the kernels compute in float32, bfloat16 and float16, and the maps are {qkv.dtype}"
    if max(height, width, d) > WIDEST:
        return f"the kernels take maps and heads up to {WIDEST}, not {height} x {width} tokens, heads of {d}"
    return None


def attention(qkv: Tensor, table_h: Tensor, table_w: Tensor) -> Tensor:
    """Softmax attention with ``a[q, row(k)] + b[q, col(k)]`` added to the scaled scores.

    Args:
        qkv: (B, H, W, 3, heads, d).
        table_h, table_w: (2H - 1, d) and (2W - 1, d): a and b are the query's products with the row of its
            distance to the key.

    Returns:
        (B, H, W, heads * d) in qkv's type.
    """
    return _Attention.apply(qkv.contiguous(), table_h.contiguous(), table_w.contiguous())


class _Attention(torch.autograd.Function):
    """It keeps qkv, the result and a number for each query and head; a and b are computed again."""

    @staticmethod
    def forward(ctx, qkv, table_h, table_w):
        batch, height, width, _, heads, d = qkv.shape
        n = height * width
        keep = any(ctx.needs_input_grad)
        with torch.cuda.device_of(qkv):
            a, b = _terms(qkv, table_h, table_w)
            out = qkv.new_empty((batch, height, width, heads * d))
            lse = qkv.new_empty((batch * heads, n), dtype=torch.float32) if keep else None
            block, warps = (128, 8) if n >= 1024 else (64, 4)
            kernels.attention[(triton.cdiv(n, block), batch * heads)](
                qkv,
                a,
                b,
                out,
                lse,
                height,
                width,
                d**-0.5,
                BM=block,
                KEEP=keep,
                **_tiles(qkv),
                num_warps=warps,
            )
        ctx.save_for_backward(qkv, table_h, table_w, out, lse)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        qkv, table_h, table_w, out, lse = ctx.saved_tensors
        batch, height, width, _, heads, d = qkv.shape
        n = height * width
        grad = grad.contiguous()
        tiles = _tiles(qkv)
        with torch.cuda.device_of(qkv):
            a, b = _terms(qkv, table_h, table_w)
            delta, grad_qkv = torch.empty_like(lse), torch.empty_like(qkv)
            grad_a, grad_b = torch.empty_like(a), torch.empty_like(b)
            kernels.backward_queries[(triton.cdiv(n, 64), batch * heads)](
                qkv, a, b, out, lse, grad, delta, grad_qkv, grad_a, grad_b, height, width, d**-0.5,
                BM=64, **tiles, num_warps=8 if tiles["WP"] > 16 else 4,
            )  # fmt: skip
            kernels.backward_keys[(triton.cdiv(height, tiles["RN"]), batch * heads)](
                qkv, a, b, lse, grad, delta, grad_qkv, height, width, d**-0.5,
                BM=64, **tiles, num_warps=8 if tiles["WP"] > 16 else 4,
            )  # fmt: skip
            for axis, (gradient, table) in enumerate(((grad_a, table_h), (grad_b, table_w))):
                kernels.terms_backward[(qkv.shape[1 + axis], batch * heads)](
                    gradient, table, grad_qkv, height, width, AXIS=axis, **_lines(qkv)
                )
        tables = (
            _table(gradient, qkv, axis) if need else None
            for axis, (gradient, need) in enumerate(
                zip((grad_a, grad_b), ctx.needs_input_grad[1:], strict=True)
            )
        )
        return grad_qkv, *tables


def _terms(qkv: Tensor, table_h: Tensor, table_w: Tensor) -> list[Tensor]:
    batch, height, width, _, heads, _ = qkv.shape
    biases = []
    for axis, table in enumerate((table_h, table_w)):
        out = qkv.new_empty((batch * heads, height * width, qkv.shape[1 + axis]))
        kernels.terms[(qkv.shape[1 + axis], batch * heads)](
            qkv, table, out, height, width, AXIS=axis, **_lines(qkv)
        )
        biases.append(out)
    return biases


def _table(grad: Tensor, qkv: Tensor, axis: int) -> Tensor:
    """A table's gradient, from the gradient of its biases. Full fine-tuning needs it."""
    batch, height, width, _, heads, _ = qkv.shape
    grad = grad.view(batch, heads, height, width, -1)
    # First for each place and key, then for each distance.
    pairs = torch.einsum("bnhwk,bhwnc->hkc" if axis == 0 else "bnhwk,bhwnc->wkc", grad, qkv[:, :, :, 0])
    length = len(pairs)
    place = torch.arange(length, device=grad.device)
    distance = (place[:, None] - place + length - 1).flatten()
    table = pairs.new_zeros((2 * length - 1, pairs.shape[-1]), dtype=torch.float32)
    return table.index_add_(0, distance, pairs.flatten(0, 1).float())


def _tiles(qkv: Tensor) -> dict:
    """Constants of the kernels that compute scores: whole rows of keys, 64 keys or more."""
    columns = padded_width(qkv.shape[2])
    return {"RN": max(1, 64 // columns), "WP": columns, **_head(qkv)}


def _lines(qkv: Tensor) -> dict:
    """Constants of the kernels that compute one row or column of the map."""
    return {"P": padded_width(max(qkv.shape[1:3])), **_head(qkv)}


def _head(qkv: Tensor) -> dict:
    heads, d = qkv.shape[-2:]
    precision = "tf32" if torch.backends.cuda.matmul.allow_tf32 else "ieee"
    return {"heads": heads, "d": d, "DP": padded_width(d), "PRECISION": precision}
