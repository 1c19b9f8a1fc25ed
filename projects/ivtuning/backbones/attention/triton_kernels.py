"""Triton kernels of attention with decomposed relative positions; :mod:`.triton_relpos` launches them.

A program computes a tile of queries or keys of one head. Keys come in whole rows of the map: RN rows, padded
to WP columns. The column's bias is then the same tile for all rows, which is loaded once, and its gradient is
a sum of tiles. The biases a (row) and b (column), (B * heads, N, H) and (B * heads, N, W), are stored times
log2(e), for exp2.

qkv is (B, N, 3, heads, d) and is read in place. Products are in its type, sums are float32.
"""

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def tile(pointer, tokens, n, stride, d: tl.constexpr, DP: tl.constexpr):
    """A (tokens, DP) tile of q, k, v or anything else with `stride` from token to token; zero outside."""
    c = tl.arange(0, DP)
    ok = (tokens < n)[:, None] & (c < d)[None, :]
    return tl.load(pointer + tokens[:, None] * stride + c[None, :], mask=ok, other=0.0)


@triton.jit
def put(pointer, value, tokens, n, stride, d: tl.constexpr, DP: tl.constexpr):
    c = tl.arange(0, DP)
    ok = (tokens < n)[:, None] & (c < d)[None, :]
    tl.store(pointer + tokens[:, None] * stride + c[None, :], value.to(pointer.dtype.element_ty), mask=ok)


@triton.jit
def head_of(pointer, n, heads: tl.constexpr, d: tl.constexpr, PARTS: tl.constexpr):
    """Address of the first token's features of this program's head. PARTS: 3 in qkv, 1 in the output."""
    image, head = tl.program_id(1) // heads, tl.program_id(1) % heads
    return pointer + image.to(tl.int64) * n * (PARTS * heads * d) + head * d


@triton.jit
def line(axis, place, i, height, width):
    """Tokens at `i` of row (axis 0) or column (axis 1) `place`; height * width where there is none."""
    if axis == 0:
        tokens, length = place * width + i, width
    else:
        tokens, length = i * width + place, height
    return tl.where(i < length, tokens, height * width)


@triton.jit
def table_rows(table, place, keys, length, d: tl.constexpr, DP: tl.constexpr):
    """Rows of the table of relative positions, (2 length - 1, d), for distances from `place` to `keys`."""
    return tile(
        table, tl.where(keys < length, place - keys + length - 1, 2 * length), 2 * length - 1, d, d, DP
    )


@triton.jit(do_not_specialize=["height", "width"])
def terms(
    qkv, table, out, height, width,
    AXIS: tl.constexpr, P: tl.constexpr, heads: tl.constexpr, d: tl.constexpr, DP: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Biases a or b of the queries of one row (AXIS 0) or column (AXIS 1): their products with the table."""
    n, place, i = height * width, tl.program_id(0), tl.arange(0, P)
    tokens = line(AXIS, place, i, height, width)
    keys = height if AXIS == 0 else width
    q = tile(head_of(qkv, n, heads, d, 3), tokens, n, 3 * heads * d, d, DP)
    rows = table_rows(table, place, i, keys, d, DP).to(q.dtype)
    bias = tl.dot(q, tl.trans(rows), input_precision=PRECISION) * LOG2E
    out += tl.program_id(1).to(tl.int64) * n * keys
    ok = (tokens < n)[:, None] & (i < keys)[None, :]
    tl.store(out + tokens[:, None] * keys + i[None, :], bias.to(out.dtype.element_ty), mask=ok)


@triton.jit(do_not_specialize=["height", "width"])
def terms_backward(
    grad, table, grad_qkv, height, width,
    AXIS: tl.constexpr, P: tl.constexpr, heads: tl.constexpr, d: tl.constexpr, DP: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Add to the queries' gradient what comes through their biases of one axis."""
    n, place, i = height * width, tl.program_id(0), tl.arange(0, P)
    tokens = line(AXIS, place, i, height, width)
    keys = height if AXIS == 0 else width
    grad += tl.program_id(1).to(tl.int64) * n * keys
    ok = (tokens < n)[:, None] & (i < keys)[None, :]
    g = tl.load(grad + tokens[:, None] * keys + i[None, :], mask=ok, other=0.0)
    rows = table_rows(table, place, i, keys, d, DP).to(g.dtype)
    at = head_of(grad_qkv, n, heads, d, 3)
    old = tile(at, tokens, n, 3 * heads * d, d, DP)
    put(at, old + tl.dot(g, rows, input_precision=PRECISION), tokens, n, 3 * heads * d, d, DP)


@triton.jit
def column_bias(b, tokens, n, width, RN: tl.constexpr, WP: tl.constexpr):
    """The bias of each key's column, (tokens, RN * WP)."""
    column = tl.arange(0, RN * WP) % WP
    ok = (tokens < n)[:, None] & (column < width)[None, :]
    return tl.load(b + tokens[:, None] * width + column[None, :], mask=ok, other=0.0)


@triton.jit
def row_bias(a, tokens, n, row, height, RN: tl.constexpr, WP: tl.constexpr):
    """The bias of each key's row, the first of which is `row`: (tokens, 1) or (tokens, RN * WP)."""
    if RN == 1:
        bias = tl.load(a + tokens * height + row, mask=tokens < n, other=0.0)[:, None]
    else:
        rows = row + tl.arange(0, RN * WP) // WP
        ok = (tokens < n)[:, None] & (rows < height)[None, :]
        bias = tl.load(a + tokens[:, None] * height + rows[None, :], mask=ok, other=0.0)
    return bias.to(tl.float32)


@triton.jit
def keys_of(row, height, width, RN: tl.constexpr, WP: tl.constexpr):
    """The token of each key in the tile whose first row is `row`; height * width where there is none."""
    j = tl.arange(0, RN * WP)
    rows, columns = row + j // WP, j % WP
    return tl.where((rows < height) & (columns < width), rows * width + columns, height * width)


@triton.jit(do_not_specialize=["height", "width"])
def attention(
    qkv, a, b, out, lse, height, width, scale,
    BM: tl.constexpr, RN: tl.constexpr, WP: tl.constexpr, heads: tl.constexpr, d: tl.constexpr,
    DP: tl.constexpr, KEEP: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """out (B, N, heads * d) and, if KEEP, lse (B * heads, N): the base-2 logarithm of each softmax's sum."""
    n = height * width
    tokens = tl.program_id(0) * BM + tl.arange(0, BM)
    head = tl.program_id(1).to(tl.int64)
    a += head * n * height
    b += head * n * width
    qkv = head_of(qkv, n, heads, d, 3)
    stride: tl.constexpr = 3 * heads * d
    q = tile(qkv, tokens, n, stride, d, DP)
    column = column_bias(b, tokens, n, width, RN, WP)
    most = tl.full((BM,), -1e30, tl.float32)
    total = tl.zeros((BM,), tl.float32)
    acc = tl.zeros((BM, DP), tl.float32)
    for row in range(0, height, RN):
        keys = keys_of(row, height, width, RN, WP)
        k = tile(qkv + heads * d, keys, n, stride, d, DP)
        s = tl.dot(q, tl.trans(k), input_precision=PRECISION) * (scale * LOG2E) + column.to(tl.float32)
        s = tl.where((keys < n)[None, :], s + row_bias(a, tokens, n, row, height, RN, WP), -1e30)
        higher = tl.maximum(most, tl.max(s, 1))
        p = tl.exp2(s - higher[:, None])
        shrink = tl.exp2(most - higher)
        total = total * shrink + tl.sum(p, 1)
        v = tile(qkv + 2 * heads * d, keys, n, stride, d, DP)
        acc = acc * shrink[:, None] + tl.dot(p.to(v.dtype), v, input_precision=PRECISION)
        most = higher
    put(head_of(out, n, heads, d, 1), acc / total[:, None], tokens, n, heads * d, d, DP)
    if KEEP:
        tl.store(lse + head * n + tokens, most + tl.log2(total), mask=tokens < n)


@triton.jit(do_not_specialize=["height", "width"])
def backward_queries(
    qkv, a, b, out, lse, grad, delta, grad_qkv, grad_a, grad_b, height, width, scale,
    BM: tl.constexpr, RN: tl.constexpr, WP: tl.constexpr, heads: tl.constexpr, d: tl.constexpr,
    DP: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The gradients of a tile's queries (through the product with the keys) and of both their biases.

    Writes delta (B * heads, N), sum(out * grad) of each query, for :func:`backward_keys`.
    """
    n = height * width
    tokens = tl.program_id(0) * BM + tl.arange(0, BM)
    head = tl.program_id(1).to(tl.int64)
    a += head * n * height
    grad_a += head * n * height
    b += head * n * width
    qkv = head_of(qkv, n, heads, d, 3)
    stride: tl.constexpr = 3 * heads * d
    q = tile(qkv, tokens, n, stride, d, DP)
    g = tile(head_of(grad, n, heads, d, 1), tokens, n, heads * d, d, DP)
    o = tile(head_of(out, n, heads, d, 1), tokens, n, heads * d, d, DP)
    inner = tl.sum(g.to(tl.float32) * o.to(tl.float32), 1)
    tl.store(delta + head * n + tokens, inner, mask=tokens < n)
    norm = tl.load(lse + head * n + tokens, mask=tokens < n, other=0.0)
    column = column_bias(b, tokens, n, width, RN, WP)
    acc = tl.zeros((BM, DP), tl.float32)
    columns = tl.zeros((BM, RN * WP), tl.float32)
    for row in range(0, height, RN):
        keys = keys_of(row, height, width, RN, WP)
        k = tile(qkv + heads * d, keys, n, stride, d, DP)
        v = tile(qkv + 2 * heads * d, keys, n, stride, d, DP)
        s = tl.dot(q, tl.trans(k), input_precision=PRECISION) * (scale * LOG2E) + column.to(tl.float32)
        s += row_bias(a, tokens, n, row, height, RN, WP)
        p = tl.where((keys < n)[None, :], tl.exp2(s - norm[:, None]), 0.0)
        s = p * (tl.dot(g, tl.trans(v), input_precision=PRECISION) - inner[:, None])
        acc += tl.dot(s.to(k.dtype), k, input_precision=PRECISION)
        columns += s
        if RN == 1:
            at = grad_a + tokens * height + row
            tl.store(at, tl.sum(s, 1).to(grad_a.dtype.element_ty), mask=tokens < n)
        else:
            rows = row + tl.arange(0, RN)
            at = grad_a + tokens[:, None] * height + rows[None, :]
            ok = (tokens < n)[:, None] & (rows < height)[None, :]
            sums = tl.sum(tl.reshape(s, (BM, RN, WP)), 2)
            tl.store(at, sums.to(grad_a.dtype.element_ty), mask=ok)
    put(head_of(grad_qkv, n, heads, d, 3), acc * scale, tokens, n, stride, d, DP)
    put(grad_b + head * n * width, tl.sum(tl.reshape(columns, (BM, RN, WP)), 1), tokens, n, width, width, WP)


@triton.jit(do_not_specialize=["height", "width"])
def backward_keys(
    qkv, a, b, lse, grad, delta, grad_qkv, height, width, scale,
    BM: tl.constexpr, RN: tl.constexpr, WP: tl.constexpr, heads: tl.constexpr, d: tl.constexpr,
    DP: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The gradients of a tile's keys and values."""
    n = height * width
    row = tl.program_id(0) * RN
    keys = keys_of(row, height, width, RN, WP)
    head = tl.program_id(1).to(tl.int64)
    a += head * n * height
    b += head * n * width
    qkv = head_of(qkv, n, heads, d, 3)
    stride: tl.constexpr = 3 * heads * d
    grad = head_of(grad, n, heads, d, 1)
    k = tile(qkv + heads * d, keys, n, stride, d, DP)
    v = tile(qkv + 2 * heads * d, keys, n, stride, d, DP)
    grad_k = tl.zeros((RN * WP, DP), tl.float32)
    grad_v = tl.zeros((RN * WP, DP), tl.float32)
    for start in range(0, n, BM):
        tokens = start + tl.arange(0, BM)
        q = tile(qkv, tokens, n, stride, d, DP)
        g = tile(grad, tokens, n, heads * d, d, DP)
        norm = tl.load(lse + head * n + tokens, mask=tokens < n, other=0.0)
        inner = tl.load(delta + head * n + tokens, mask=tokens < n, other=0.0)
        s = tl.dot(q, tl.trans(k), input_precision=PRECISION) * (scale * LOG2E)
        s += column_bias(b, tokens, n, width, RN, WP).to(tl.float32)
        s += row_bias(a, tokens, n, row, height, RN, WP)
        p = tl.where((keys < n)[None, :] & (tokens < n)[:, None], tl.exp2(s - norm[:, None]), 0.0)
        grad_v += tl.dot(tl.trans(p.to(g.dtype)), g, input_precision=PRECISION)
        s = p * (tl.dot(g, tl.trans(v), input_precision=PRECISION) - inner[:, None])
        grad_k += tl.dot(tl.trans(s.to(q.dtype)), q, input_precision=PRECISION)
    grad_qkv = head_of(grad_qkv, n, heads, d, 3)
    put(grad_qkv + heads * d, grad_k * scale, keys, n, stride, d, DP)
    put(grad_qkv + 2 * heads * d, grad_v, keys, n, stride, d, DP)
