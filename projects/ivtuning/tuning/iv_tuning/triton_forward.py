"""Triton kernels of IV-tuning's sites, forward pass; :mod:`.triton_site` launches them.

Wide maps (n, C) are read one tile of tokens at a time. Narrow ones, (n, h) and (n, r), stay on the chip
where no other token is needed. n = B H W tokens. D is the type of the products and of the narrow maps that
are stored; sums, norms and activations are float32. Sums over tokens are formed in a fixed order, without
atomics, so every run gives the same bits.
"""

import triton
import triton.language as tl


@triton.jit
def gelu(x):
    return 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))


@triton.jit
def gelu_slope(x):
    return 0.5 * (1.0 + tl.erf(x * 0.7071067811865476)) + x * tl.exp(-0.5 * x * x) * 0.3989422804014327


@triton.jit
def vector(pointer, index, size):
    """A parameter's values at `index`, zero from `size` on, as float32."""
    return tl.load(pointer + index, mask=index < size, other=0.0).to(tl.float32)


@triton.jit
def matrix(pointer, i, j, rows, cols):
    """Tile (i, j) of a contiguous (rows, cols) matrix, zero outside, as float32."""
    ok = (i < rows)[:, None] & (j < cols)[None, :]
    return tl.load(pointer + i[:, None] * cols + j[None, :], mask=ok, other=0.0).to(tl.float32)


@triton.jit
def put(pointer, value, i, j, rows, cols):
    """Store a tile of a contiguous (rows, cols) matrix."""
    ok = (i < rows)[:, None] & (j < cols)[None, :]
    where = pointer + i[:, None] * cols + j[None, :]
    tl.store(where, value.to(pointer.dtype.element_ty), mask=ok)


@triton.jit
def product(a, b, D: tl.constexpr, PRECISION: tl.constexpr):
    return tl.dot(a.to(D), b.to(D), input_precision=PRECISION)


@triton.jit
def norm_affine(norm_weight, norm_bias, gamma, beta, c, C):
    """Scale and shift of ``norm(x) * gamma + beta`` behind the plain standardization."""
    g = vector(gamma, c, C)
    return vector(norm_weight, c, C) * g, vector(norm_bias, c, C) * g + vector(beta, c, C)


@triton.jit(do_not_specialize=["tokens"])
def project(
    x, norm_weight, norm_bias, gamma, beta, weight, bias, z, mean, rstd, folded, partial, tokens, C, eps,
    K: tl.constexpr, KP: tl.constexpr, BM: tl.constexpr, BC: tl.constexpr, STATISTICS: tl.constexpr,
    D: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """z (n, K) = ``linear(norm(x) * gamma + beta)`` less the part that is the same for all tokens.

    `folded` (2, K) receives that part, and the row sums of the weight times the norm's scale, for the
    backward pass. A program computes a block of one image; `partial` (images, blocks, 2, K) receives the mean
    and the sum of squared deviations of z in it.
    """
    image = tl.program_id(1)
    within = tl.program_id(0) * BM + tl.arange(0, BM)
    n = (image + 1) * tokens
    rows = tl.where(within < tokens, image * tokens + within, n)
    live = within < tokens
    k = tl.arange(0, KP)
    seen = tl.zeros((BM,), tl.float32)
    m = tl.zeros((BM,), tl.float32)
    s = tl.zeros((BM,), tl.float32)
    for c0 in range(0, C, BC):
        c = c0 + tl.arange(0, BC)
        t = matrix(x, rows, c, n, C)
        width = tl.sum((c < C).to(tl.float32), 0)
        middle = tl.sum(t, 1) / width
        d = tl.where((c < C)[None, :], t - middle[:, None], 0.0)
        shift = middle - m
        s += tl.sum(d * d, 1) + shift * shift * (seen * width / (seen + width))
        m += shift * (width / (seen + width))
        seen += width
    r = tl.rsqrt(s / C + eps)
    acc = tl.zeros((BM, KP), tl.float32)
    constant = vector(bias, k, K)
    total = tl.zeros((KP,), tl.float32)
    for c0 in range(0, C, BC):
        c = c0 + tl.arange(0, BC)
        scale, offset = norm_affine(norm_weight, norm_bias, gamma, beta, c, C)
        w = matrix(weight, k, c, K, C)
        t = (matrix(x, rows, c, n, C) - m[:, None]) * r[:, None] * scale[None, :]
        acc += product(t, tl.trans(w), D, PRECISION)
        constant += tl.sum(w * offset[None, :], 1)
        total += tl.sum(w * scale[None, :], 1)
    put(z, acc, rows, k, n, K)
    tl.store(mean + rows, m, mask=live)
    tl.store(rstd + rows, r, mask=live)
    if tl.program_id(0) + image == 0:
        tl.store(folded + k, constant, mask=k < K)
        tl.store(folded + K + k, total, mask=k < K)
    if STATISTICS:
        acc = acc.to(D).to(tl.float32)  # the statistics are those of what is stored
        block_statistics(acc, live, partial, image * tl.num_programs(0) + tl.program_id(0), k, K)


@triton.jit
def block_statistics(value, live, partial, block, k, K):
    """Store a block's mean and sum of squared deviations in `partial` (blocks, 2, K)."""
    m = tl.sum(tl.where(live[:, None], value, 0.0), 0) / tl.sum(live.to(tl.float32), 0)
    d = tl.where(live[:, None], value - m[None, :], 0.0)
    tl.store(partial + block * 2 * K + k, m, mask=k < K)
    tl.store(partial + block * 2 * K + K + k, tl.sum(d * d, 0), mask=k < K)


@triton.jit
def join_statistics(
    partial, n, blocks, BM: tl.constexpr, K: tl.constexpr, KP: tl.constexpr, BP: tl.constexpr
):
    """Mean and sum of squared deviations of all n tokens, from those of blocks of BM tokens."""
    k = tl.arange(0, KP)
    m = tl.zeros((KP,), tl.float32)
    for p0 in range(0, blocks, BP):
        p = p0 + tl.arange(0, BP)
        count = tl.maximum(tl.minimum(n - p * BM, BM), 0).to(tl.float32)
        m += tl.sum(matrix(partial, 2 * p, k, 2 * blocks, K) * count[:, None], 0)
    m = m / n
    s = tl.zeros((KP,), tl.float32)
    for p0 in range(0, blocks, BP):
        p = p0 + tl.arange(0, BP)
        count = tl.maximum(tl.minimum(n - p * BM, BM), 0).to(tl.float32)
        d = matrix(partial, 2 * p, k, 2 * blocks, K) - m[None, :]
        s += tl.sum(matrix(partial, 2 * p + 1, k, 2 * blocks, K) + d * d * count[:, None], 0)
    return m, s


@triton.jit(do_not_specialize=["tokens", "blocks"])
def prompt_statistics(
    partial, stats, tokens, blocks, penalty,
    K: tl.constexpr, KP: tl.constexpr, BM: tl.constexpr, BP: tl.constexpr,
):  # fmt: skip
    """SimAM's statistics of each image: mean and 1 / (4 (variance + penalty)), (B, 2, K)."""
    image = tl.program_id(0)
    k = tl.arange(0, KP)
    m, s = join_statistics(partial + image * blocks * 2 * K, tokens, blocks, BM, K, KP, BP)
    tl.store(stats + image * 2 * K + k, m, mask=k < K)
    freedom = tl.maximum(tokens - 1, 1)
    tl.store(stats + image * 2 * K + K + k, 0.25 / (s / freedom + penalty), mask=k < K)


@triton.jit
def attend(z, folded, stats, rows, n, tokens, K: tl.constexpr, KP: tl.constexpr):
    """SimAM on a tile of tokens: deviations d, factors q, the value x and its gate s; x s is the result."""
    k = tl.arange(0, KP)
    t = matrix(z, rows, k, n, K)
    ok = (rows < n)[:, None] & (k < K)[None, :]
    at = (rows // tokens)[:, None] * (2 * K) + k[None, :]
    d = t - tl.load(stats + at, mask=ok, other=0.0)
    q = tl.load(stats + K + at, mask=ok, other=0.0)
    x = t + vector(folded, k, K)[None, :]
    return d, q, x, tl.sigmoid(d * d * q + 0.5)


@triton.jit
def prompt_hidden(z, folded, stats, rows, n, tokens, K: tl.constexpr, KP: tl.constexpr):
    d, q, x, s = attend(z, folded, stats, rows, n, tokens, K, KP)
    return gelu(x * s)


@triton.jit(do_not_specialize=["n", "height", "width"])
def mix(
    z, folded, depthwise, depthwise_bias, conv1, conv1_bias, y, a, partial, n, height, width,
    K: tl.constexpr, KP: tl.constexpr, PART: tl.constexpr, BM: tl.constexpr, STATISTICS: tl.constexpr,
    D: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """y = concat(depthwise(first quarter), rest) + z and a = conv1(y), both (n, K).

    `partial` (blocks, 2, K) receives each block's mean and sum of squared deviations of a.
    """
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    k = tl.arange(0, KP)
    live = rows < n
    part = k < PART
    constant = vector(folded, k, K)
    i, j = rows // width % height, rows % width
    t = matrix(z, rows, k, n, K) + constant[None, :]
    bias = tl.load(depthwise_bias + k, mask=part, other=0.0).to(tl.float32)
    acc = tl.where(part[None, :], t + bias[None, :], 2.0 * t)
    for tap in tl.static_range(9):
        di, dj = tap // 3 - 1, tap % 3 - 1
        ok = live & (i + di >= 0) & (i + di < height) & (j + dj >= 0) & (j + dj < width)
        ok = ok[:, None] & part[None, :]
        at = (rows + di * width + dj)[:, None] * K + k[None, :]
        near = tl.load(z + at, mask=ok, other=0.0).to(tl.float32)
        w = tl.load(depthwise + k * 9 + tap, mask=part, other=0.0).to(tl.float32)
        acc += tl.where(ok, near + constant[None, :], 0.0) * w[None, :]
    put(y, acc, rows, k, n, K)
    w = matrix(conv1, k, k, K, K)
    c = product(acc, tl.trans(w), D, PRECISION) + vector(conv1_bias, k, K)[None, :]
    c = c.to(D).to(tl.float32)  # the norm is that of what is stored
    put(a, c, rows, k, n, K)
    if STATISTICS:
        block_statistics(c, live, partial, tl.program_id(0), k, K)


@triton.jit(do_not_specialize=["n", "blocks"])
def batch_statistics(
    partial, running_mean, running_var, batches, stats, n, blocks, eps, momentum,
    K: tl.constexpr, KP: tl.constexpr, BM: tl.constexpr, BP: tl.constexpr, TRAIN: tl.constexpr,
    TRACK: tl.constexpr,
):  # fmt: skip
    """Mean and 1/std of the batch norm, (2, K): the batch's, joined from the blocks', or the running ones."""
    k = tl.arange(0, KP)
    if TRAIN:
        m, s = join_statistics(partial, n, blocks, BM, K, KP, BP)
        variance = s / n
        if TRACK:
            old = vector(running_mean, k, K)
            tl.store(running_mean + k, old + momentum * (m - old), mask=k < K)
            old = vector(running_var, k, K)
            tl.store(running_var + k, old + momentum * (s / (n - 1) - old), mask=k < K)
            tl.store(batches, tl.load(batches) + 1)
    else:
        m = vector(running_mean, k, K)
        variance = vector(running_var, k, K)
    tl.store(stats + k, m, mask=k < K)
    tl.store(stats + K + k, tl.rsqrt(variance + eps), mask=k < K)


@triton.jit
def hidden_parts(
    a, y, stats, norm_weight, norm_bias, conv2, conv2_bias, rows, n, seed, dropout,
    K: tl.constexpr, KP: tl.constexpr, DROP: tl.constexpr, D: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """On a tile of tokens: standardized a, the norm's output b, u = conv2(relu(b)) + y, dropout's factors."""
    k = tl.arange(0, KP)
    centered = matrix(a, rows, k, n, K) - vector(stats, k, K)[None, :]
    standard = centered * vector(stats + K, k, K)[None, :]
    b = standard * vector(norm_weight, k, K)[None, :] + vector(norm_bias, k, K)[None, :]
    w = matrix(conv2, k, k, K, K)
    u = product(tl.maximum(b, 0.0), tl.trans(w), D, PRECISION) + vector(conv2_bias, k, K)[None, :]
    u += matrix(y, rows, k, n, K)
    keep = tl.full((1, 1), 1.0, tl.float32)
    if DROP:
        draw = tl.rand(tl.load(seed), rows[:, None] * K + k[None, :])
        keep = tl.where(draw >= dropout, 1.0 / (1.0 - dropout), 0.0)
    return standard, b, u, keep


@triton.jit
def prompt_pre(prompt, up, bias, gamma, beta, c, C, K: tl.constexpr, KP: tl.constexpr, AFFINE: tl.constexpr,
               D: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """``prompt @ up.T + bias``, the last scale, and the input of the last GELU: (tokens, channels) each."""
    w = matrix(up, c, tl.arange(0, KP), C, K)
    t = product(prompt, tl.trans(w), D, PRECISION) + vector(bias, c, C)[None, :]
    scale = tl.full((1, 1), 1.0, tl.float32)
    pre = t
    if AFFINE:
        scale = vector(gamma, c, C)[None, :]
        pre = t * scale + vector(beta, c, C)[None, :]
    return t, scale, pre


@triton.jit(do_not_specialize=["n", "tokens"])
def up(
    x, a, y, stats, norm_weight, norm_bias, conv2, conv2_bias, prompt, prompt_folded, prompt_stats,
    weight, bias, prompt_weight, prompt_bias, gamma, beta, out, n, tokens, C, seed, dropout,
    K: tl.constexpr, KP: tl.constexpr, R: tl.constexpr, RP: tl.constexpr, BM: tl.constexpr, BC: tl.constexpr,
    DROP: tl.constexpr, AFFINE: tl.constexpr, D: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """out (n, C) = x + both up-projections."""
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    k = tl.arange(0, KP)
    standard, b, u, keep = hidden_parts(
        a, y, stats, norm_weight, norm_bias, conv2, conv2_bias, rows, n, seed, dropout,
        K, KP, DROP, D, PRECISION,
    )  # fmt: skip
    hidden = gelu(u) * keep
    p = prompt_hidden(prompt, prompt_folded, prompt_stats, rows, n, tokens, R, RP)
    for c0 in range(0, C, BC):
        c = c0 + tl.arange(0, BC)
        t, scale, pre = prompt_pre(
            p, prompt_weight, prompt_bias, gamma, beta, c, C, R, RP, AFFINE, D, PRECISION
        )
        w = matrix(weight, c, k, C, K)
        o = product(hidden, tl.trans(w), D, PRECISION) + vector(bias, c, C)[None, :]
        put(out, matrix(x, rows, c, n, C) + o + gelu(pre), rows, c, n, C)
