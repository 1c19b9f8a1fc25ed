"""Triton kernels of IV-tuning's sites, backward pass; :mod:`.triton_site` launches them.

A program that sums over tokens reads every P-th block of them, P being the number of programs, and writes its
sum into its own row of a buffer. Who needs the total adds up the rows. The order is fixed and there are no
atomics, so every run gives the same bits.
"""

import triton
import triton.language as tl

from .triton_forward import (
    attend,
    gelu,
    gelu_slope,
    hidden_parts,
    matrix,
    product,
    prompt_hidden,
    prompt_pre,
    put,
    vector,
)


@triton.jit
def put_square(pointer, value, k, K):
    """Store a (K, K) tile, rows and columns both at `k`."""
    ok = (k < K)[:, None] & (k < K)[None, :]
    tl.store(pointer + k[:, None] * K + k[None, :], value, mask=ok)


@triton.jit(do_not_specialize=["tokens"])
def backward_up(
    g, prompt, prompt_folded, prompt_stats, weight, prompt_weight, prompt_bias, gamma, beta,
    grad_hidden, grad_prompt, prompt_sums, tokens, C,
    K: tl.constexpr, KP: tl.constexpr, R: tl.constexpr, RP: tl.constexpr, BM: tl.constexpr, BC: tl.constexpr,
    AFFINE: tl.constexpr, D: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """From g (n, C), the gradient of the site's result, to the gradients before both up-projections.

    The prompt's has passed its GELU as well. A program computes a block of one image; a row of `prompt_sums`
    (images, blocks, 2, R) holds the sums that SimAM's statistics pass on.
    """
    image = tl.program_id(1)
    within = tl.program_id(0) * BM + tl.arange(0, BM)
    n = (image + 1) * tokens
    rows = tl.where(within < tokens, image * tokens + within, n)
    k = tl.arange(0, KP)
    r = tl.arange(0, RP)
    d, q, x, s = attend(prompt, prompt_folded, prompt_stats, rows, n, tokens, R, RP)
    p = gelu(x * s)
    grad_h = tl.zeros((BM, KP), tl.float32)
    grad_p = tl.zeros((BM, RP), tl.float32)
    for c0 in range(0, C, BC):
        c = c0 + tl.arange(0, BC)
        t = matrix(g, rows, c, n, C)
        grad_h += product(t, matrix(weight, c, k, C, K), D, PRECISION)
        plain, scale, pre = prompt_pre(
            p, prompt_weight, prompt_bias, gamma, beta, c, C, R, RP, AFFINE, D, PRECISION
        )
        grad_p += product(t * gelu_slope(pre) * scale, matrix(prompt_weight, c, r, C, R), D, PRECISION)
    grad_p = grad_p * gelu_slope(x * s)
    slope = grad_p * x * s * (1.0 - s)
    put(grad_hidden, grad_h, rows, k, n, K)
    put(grad_prompt, grad_p, rows, r, n, R)
    mine = prompt_sums + (image * tl.num_programs(0) + tl.program_id(0)) * 2 * R
    tl.store(mine + r, tl.sum(slope * d, 0), mask=r < R)
    tl.store(mine + R + r, tl.sum(slope * d * d, 0), mask=r < R)


@triton.jit(do_not_specialize=["n", "blocks"])
def backward_hidden(
    grad_hidden, a, y, stats, norm_weight, norm_bias, conv2, conv2_bias, grad_u, grad_b, hidden, sums,
    n, blocks, seed, dropout, SUMS,
    K: tl.constexpr, KP: tl.constexpr, BM: tl.constexpr, DROP: tl.constexpr, D: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Through dropout, GELU, conv2 and relu: the gradients of u and of the norm's result b.

    Writes `hidden` (n, K) as the up-projection takes it. A row of `sums`: the gradient of conv2's weight and
    bias, then sum(grad_b) and sum(grad_b * standardized a).
    """
    k = tl.arange(0, KP)
    grad_conv = tl.zeros((KP, KP), tl.float32)
    grad_bias = tl.zeros((KP,), tl.float32)
    s0 = tl.zeros((KP,), tl.float32)
    s1 = tl.zeros((KP,), tl.float32)
    for block in range(tl.program_id(0), blocks, tl.num_programs(0)):
        rows = block * BM + tl.arange(0, BM)
        standard, b, u, keep = hidden_parts(
            a, y, stats, norm_weight, norm_bias, conv2, conv2_bias, rows, n, seed, dropout,
            K, KP, DROP, D, PRECISION,
        )  # fmt: skip
        gu = matrix(grad_hidden, rows, k, n, K) * keep * gelu_slope(u)
        gb = tl.where(b > 0, product(gu, matrix(conv2, k, k, K, K), D, PRECISION), 0.0)
        put(grad_u, gu, rows, k, n, K)
        put(grad_b, gb, rows, k, n, K)
        put(hidden, gelu(u) * keep, rows, k, n, K)
        grad_conv += product(tl.trans(gu), tl.maximum(b, 0.0), D, PRECISION)
        grad_bias += tl.sum(gu, 0)
        s0 += tl.sum(gb, 0)
        s1 += tl.sum(gb * standard, 0)
    mine = sums + tl.program_id(0) * SUMS
    put_square(mine, grad_conv, k, K)
    tl.store(mine + K * K + k, grad_bias, mask=k < K)
    tl.store(mine + K * K + K + k, s0, mask=k < K)
    tl.store(mine + K * K + 2 * K + k, s1, mask=k < K)


@triton.jit(do_not_specialize=["n", "blocks", "programs"])
def backward_mix(
    a, y, stats, norm_weight, conv1, grad_u, grad_b, before, grad_y, sums, n, blocks, programs, SUMS,
    K: tl.constexpr, KP: tl.constexpr, BM: tl.constexpr, BP: tl.constexpr, D: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Through the batch norm, conv1 and the residual: grad_y (n, K).

    `before`: s0 and s1 in the first row of :func:`backward_hidden`'s sums. A row of `sums`: the gradient of
    conv1's weight and bias.
    """
    k = tl.arange(0, KP)
    s0 = tl.zeros((KP,), tl.float32)
    s1 = tl.zeros((KP,), tl.float32)
    for p0 in range(0, programs, BP):
        p = p0 + tl.arange(0, BP)
        ok = (p < programs)[:, None] & (k < K)[None, :]
        at = before + p[:, None] * SUMS + k[None, :]
        s0 += tl.sum(tl.load(at, mask=ok, other=0.0), 0)
        s1 += tl.sum(tl.load(at + K, mask=ok, other=0.0), 0)
    rstd = vector(stats + K, k, K)
    mean = vector(stats, k, K)
    scale = rstd * vector(norm_weight, k, K)
    w = matrix(conv1, k, k, K, K)
    grad_conv = tl.zeros((KP, KP), tl.float32)
    grad_bias = tl.zeros((KP,), tl.float32)
    for block in range(tl.program_id(0), blocks, tl.num_programs(0)):
        rows = block * BM + tl.arange(0, BM)
        standard = (matrix(a, rows, k, n, K) - mean[None, :]) * rstd[None, :]
        ga = matrix(grad_b, rows, k, n, K) - (s0 / n)[None, :] - standard * (s1 / n)[None, :]
        ga = tl.where((rows < n)[:, None], ga * scale[None, :], 0.0)
        put(grad_y, matrix(grad_u, rows, k, n, K) + product(ga, w, D, PRECISION), rows, k, n, K)
        grad_conv += product(tl.trans(ga), matrix(y, rows, k, n, K), D, PRECISION)
        grad_bias += tl.sum(ga, 0)
    mine = sums + tl.program_id(0) * SUMS
    put_square(mine, grad_conv, k, K)
    tl.store(mine + K * K + k, grad_bias, mask=k < K)


@triton.jit(do_not_specialize=["n", "height", "width", "blocks"])
def backward_depthwise(
    z, folded, depthwise, grad_y, grad_z, sums, n, height, width, blocks, SUMS,
    K: tl.constexpr, KP: tl.constexpr, PART: tl.constexpr, BM: tl.constexpr,
):  # fmt: skip
    """Through the depthwise convolution and its residual: grad_z (n, K).

    A row of `sums`: sum(grad_z), then PART x 9 values of the depthwise weight and PART of its bias.
    """
    k = tl.arange(0, KP)
    part = k < PART
    constant = vector(folded, k, K)
    taps = tl.arange(0, 16)
    grad_w = tl.zeros((16, KP), tl.float32)
    grad_bias = tl.zeros((KP,), tl.float32)
    total = tl.zeros((KP,), tl.float32)
    for block in range(tl.program_id(0), blocks, tl.num_programs(0)):
        rows = block * BM + tl.arange(0, BM)
        live = rows < n
        i, j = rows // width % height, rows % width
        gy = matrix(grad_y, rows, k, n, K)
        gz = tl.where(part[None, :], gy, 2.0 * gy)
        for tap in tl.static_range(9):
            di, dj = tap // 3 - 1, tap % 3 - 1
            ok = live & (i - di >= 0) & (i - di < height) & (j - dj >= 0) & (j - dj < width)
            ok = ok[:, None] & part[None, :]
            at = (rows - di * width - dj)[:, None] * K + k[None, :]
            w = tl.load(depthwise + k * 9 + tap, mask=part, other=0.0).to(tl.float32)
            gz += tl.load(grad_y + at, mask=ok, other=0.0).to(tl.float32) * w[None, :]
            ok = live & (i + di >= 0) & (i + di < height) & (j + dj >= 0) & (j + dj < width)
            ok = ok[:, None] & part[None, :]
            at = (rows + di * width + dj)[:, None] * K + k[None, :]
            near = tl.load(z + at, mask=ok, other=0.0).to(tl.float32)
            near = tl.where(ok, near + constant[None, :], 0.0)
            grad_w += tl.where((taps == tap)[:, None], tl.sum(gy * near, 0)[None, :], 0.0)
        put(grad_z, gz, rows, k, n, K)
        grad_bias += tl.sum(gy, 0)
        total += tl.sum(gz, 0)
    mine = sums + tl.program_id(0) * SUMS
    tl.store(mine + k, total, mask=k < K)
    ok = (taps < 9)[:, None] & part[None, :]
    tl.store(mine + K + k[None, :] * 9 + taps[:, None], grad_w, mask=ok)
    tl.store(mine + K + 9 * PART + k, grad_bias, mask=part)


@triton.jit(do_not_specialize=["tokens", "blocks"])
def backward_attention(
    z, folded, stats, grad, before, grad_z, sums, tokens, blocks,
    K: tl.constexpr, KP: tl.constexpr, BT: tl.constexpr, BP: tl.constexpr,
):  # fmt: skip
    """Through SimAM: grad_z (n, K) from `grad`. A program computes a block of one image and a row of `sums`.

    `before`: the sums that :func:`backward_up` wrote for the image's `blocks`.
    """
    image = tl.program_id(1)
    k = tl.arange(0, KP)
    s1 = tl.zeros((KP,), tl.float32)
    s2 = tl.zeros((KP,), tl.float32)
    before += image * blocks * 2 * K
    for p0 in range(0, blocks, BP):
        p = p0 + tl.arange(0, BP)
        s1 += tl.sum(matrix(before, 2 * p, k, 2 * blocks, K), 0)
        s2 += tl.sum(matrix(before, 2 * p + 1, k, 2 * blocks, K), 0)
    factor = vector(stats + image * 2 * K + K, k, K)
    mean = 2.0 * factor * s1 / tokens
    spread = 4.0 * factor * factor * s2 / tl.maximum(tokens - 1, 1)
    within = tl.program_id(0) * BT + tl.arange(0, BT)
    end = (image + 1) * tokens
    rows = tl.where(within < tokens, image * tokens + within, end)
    d, q, x, s = attend(z, folded, stats, rows, end, tokens, K, KP)
    g = matrix(grad, rows, k, end, K)
    gz = g * s + 2.0 * d * (q * g * x * s * (1.0 - s) - spread[None, :]) - mean[None, :]
    gz = tl.where((within < tokens)[:, None], gz, 0.0)
    put(grad_z, gz, rows, k, end, K)
    tl.store(sums + (image * tl.num_programs(0) + tl.program_id(0)) * K + k, tl.sum(gz, 0), mask=k < K)


@triton.jit
def restored(
    out, p, prompt_weight, prompt_bias, gamma, beta, hidden, weight, bias, rows, c, n, C,
    K: tl.constexpr, KP: tl.constexpr, R: tl.constexpr, RP: tl.constexpr, AFFINE: tl.constexpr,
    D: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A tile of the site's input, which is its result less what it added."""
    t, scale, pre = prompt_pre(p, prompt_weight, prompt_bias, gamma, beta, c, C, R, RP, AFFINE, D, PRECISION)
    w = matrix(weight, c, tl.arange(0, KP), C, K)
    o = product(hidden, tl.trans(w), D, PRECISION) + vector(bias, c, C)[None, :]
    return matrix(out, rows, c, n, C) - o - gelu(pre)


@triton.jit(do_not_specialize=["n", "tokens"])
def backward_project(
    g, out, z, grad_z, mean, rstd, folded, norm_weight, gamma, weight,
    hidden, up, up_bias, prompt, prompt_folded, prompt_stats, prompt_up, prompt_bias, last_gamma, last_beta,
    grad_x, standardized, n, tokens, C,
    K: tl.constexpr, KP: tl.constexpr, R: tl.constexpr, RP: tl.constexpr, BM: tl.constexpr, BC: tl.constexpr,
    SITE: tl.constexpr, AFFINE: tl.constexpr, D: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Through the projection and the norm: grad_x (n, C).

    SITE: the input is restored from the site's result `out`, and the residual's gradient g joins; else `out`
    is the input itself. `standardized` (n, C) receives the input less its mean, over its deviation.
    """
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    k = tl.arange(0, KP)
    gz = matrix(grad_z, rows, k, n, K)
    v0 = tl.sum(gz * vector(folded + K, k, K)[None, :], 1) / C
    v1 = tl.sum(gz * matrix(z, rows, k, n, K), 1) / C
    m = tl.load(mean + rows, mask=rows < n, other=0.0)
    s = tl.load(rstd + rows, mask=rows < n, other=0.0)
    if SITE:
        h = matrix(hidden, rows, k, n, K)
        p = prompt_hidden(prompt, prompt_folded, prompt_stats, rows, n, tokens, R, RP)
    for c0 in range(0, C, BC):
        c = c0 + tl.arange(0, BC)
        scale = vector(norm_weight, c, C) * vector(gamma, c, C)
        v = product(gz, matrix(weight, k, c, K, C) * scale[None, :], D, PRECISION)
        if SITE:
            x = restored(
                out, p, prompt_up, prompt_bias, last_gamma, last_beta, h, up, up_bias, rows, c, n, C,
                K, KP, R, RP, AFFINE, D, PRECISION,
            )  # fmt: skip
        else:
            x = matrix(out, rows, c, n, C)
        standard = (x - m[:, None]) * s[:, None]
        put(standardized, standard, rows, c, n, C)
        grad = s[:, None] * (v - v0[:, None] - standard * v1[:, None])
        if SITE:
            grad += matrix(g, rows, c, n, C)
        put(grad_x, grad, rows, c, n, C)


@triton.jit(do_not_specialize=["n", "tokens", "blocks"])
def backward_columns(
    g, standardized, grad_z, hidden, prompt_standardized, grad_prompt,
    prompt, prompt_folded, prompt_stats, prompt_up, prompt_bias, last_gamma, last_beta, sums,
    n, tokens, blocks, C,
    K: tl.constexpr, KP: tl.constexpr, R: tl.constexpr, RP: tl.constexpr, BM: tl.constexpr, BC: tl.constexpr,
    AFFINE: tl.constexpr, D: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """All sums over tokens that are C wide.

    `sums` (splits, 2 K + 2 R + 3, C): grad_z.T @ standardized input (K rows), hidden.T @ g (K), the same of
    the prompt (R each), and the sums of g, of the last GELU's input's gradient, and of that times the value
    before the last scale.
    """
    c = tl.program_id(0) * BC + tl.arange(0, BC)
    k = tl.arange(0, KP)
    r = tl.arange(0, RP)
    down_grad = tl.zeros((KP, BC), tl.float32)
    up_grad = tl.zeros((KP, BC), tl.float32)
    prompt_down_grad = tl.zeros((RP, BC), tl.float32)
    prompt_up_grad = tl.zeros((RP, BC), tl.float32)
    sum_g = tl.zeros((BC,), tl.float32)
    sum_pre = tl.zeros((BC,), tl.float32)
    sum_last = tl.zeros((BC,), tl.float32)
    for block in range(tl.program_id(1), blocks, tl.num_programs(1)):
        rows = block * BM + tl.arange(0, BM)
        gz = matrix(grad_z, rows, k, n, K)
        down_grad += product(tl.trans(gz), matrix(standardized, rows, c, n, C), D, PRECISION)
        gt = matrix(g, rows, c, n, C)
        up_grad += product(tl.trans(matrix(hidden, rows, k, n, K)), gt, D, PRECISION)
        sum_g += tl.sum(gt, 0)
        p = prompt_hidden(prompt, prompt_folded, prompt_stats, rows, n, tokens, R, RP)
        t, scale, pre = prompt_pre(
            p, prompt_up, prompt_bias, last_gamma, last_beta, c, C, R, RP, AFFINE, D, PRECISION
        )
        gp = gt * gelu_slope(pre)
        prompt_up_grad += product(tl.trans(p), gp, D, PRECISION)
        sum_pre += tl.sum(gp, 0)
        sum_last += tl.sum(gp * t, 0)
        gz = matrix(grad_prompt, rows, r, n, R)
        prompt_down_grad += product(tl.trans(gz), matrix(prompt_standardized, rows, c, n, C), D, PRECISION)
    mine = sums + tl.program_id(1) * (2 * K + 2 * R + 3) * C
    put(mine, down_grad, k, c, K, C)
    put(mine + K * C, up_grad, k, c, K, C)
    put(mine + 2 * K * C, prompt_down_grad, r, c, R, C)
    put(mine + (2 * K + R) * C, prompt_up_grad, r, c, R, C)
    mine += (2 * K + 2 * R) * C
    tl.store(mine + c, sum_g, mask=c < C)
    tl.store(mine + C + c, sum_pre, mask=c < C)
    tl.store(mine + 2 * C + c, sum_last, mask=c < C)
