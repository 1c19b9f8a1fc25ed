"""Triton kernels of IV-tuning's sites that make gradients of wide parameters out of sums over tokens.

The sums are those of :func:`.triton_backward.backward_columns`, one row for each split of the tokens.
"""

import triton
import triton.language as tl

from .triton_forward import matrix, norm_affine, put, vector


@triton.jit
def finish_down(
    sums, row, splits, ROWS, constant, norm_weight, norm_bias, gamma, beta, weight,
    grad_norm_weight, grad_norm_bias, grad_gamma, grad_beta, grad_weight, c, C, K, KP: tl.constexpr,
):  # fmt: skip
    """Gradients of a norm, its affine maps and the projection's weight; `constant` (KP,) is its bias's."""
    k = tl.arange(0, KP)
    total = tl.zeros((KP, c.shape[0]), tl.float32)
    for split in range(splits):
        total += matrix(sums + (split * ROWS + row) * C, k, c, K, C)
    scale, offset = norm_affine(norm_weight, norm_bias, gamma, beta, c, C)
    put(grad_weight, total * scale[None, :] + constant[:, None] * offset[None, :], k, c, K, C)
    w = matrix(weight, k, c, K, C)
    g0 = tl.sum(w * constant[:, None], 0)
    g1 = tl.sum(w * total, 0)
    factor = vector(gamma, c, C)
    tl.store(grad_norm_weight + c, factor * g1, mask=c < C)
    tl.store(grad_norm_bias + c, factor * g0, mask=c < C)
    tl.store(grad_gamma + c, vector(norm_weight, c, C) * g1 + vector(norm_bias, c, C) * g0, mask=c < C)
    tl.store(grad_beta + c, g0, mask=c < C)


@triton.jit
def finish_up(sums, row, splits, ROWS, grad_weight, scale, c, C, K, KP: tl.constexpr):
    """Gradient (C, K) of an up-projection's weight."""
    k = tl.arange(0, KP)
    total = tl.zeros((KP, c.shape[0]), tl.float32)
    for split in range(splits):
        total += matrix(sums + (split * ROWS + row) * C, k, c, K, C)
    put(grad_weight, tl.trans(total * scale), c, k, C, K)


@triton.jit
def total_row(sums, row, splits, ROWS, c, C):
    """The total over all splits of one C-wide row."""
    total = tl.zeros(c.shape, tl.float32)
    for split in range(splits):
        total += vector(sums + (split * ROWS + row) * C, c, C)
    return total


@triton.jit(do_not_specialize=["splits", "prompt_blocks"])
def finish(
    sums, splits, down_bias, prompt_sums, prompt_blocks,
    norm_weight, norm_bias, gamma, beta, weight,
    prompt_norm_weight, prompt_norm_bias, prompt_gamma, prompt_beta, prompt_weight, last_gamma,
    grad_norm_weight, grad_norm_bias, grad_gamma, grad_beta, grad_weight, grad_up, grad_up_bias,
    grad_prompt_norm_weight, grad_prompt_norm_bias, grad_prompt_gamma, grad_prompt_beta, grad_prompt_weight,
    grad_prompt_down_bias, grad_prompt_up, grad_prompt_up_bias, grad_last_gamma, grad_last_beta, C,
    K: tl.constexpr, KP: tl.constexpr, R: tl.constexpr, RP: tl.constexpr, BC: tl.constexpr,
    AFFINE: tl.constexpr,
):  # fmt: skip
    """Wide parameters' gradients from the sums of :func:`.triton_backward.backward_columns`."""
    ROWS: tl.constexpr = 2 * K + 2 * R + 3
    c = tl.program_id(0) * BC + tl.arange(0, BC)
    r = tl.arange(0, RP)
    finish_down(
        sums, 0, splits, ROWS, vector(down_bias, tl.arange(0, KP), K), norm_weight, norm_bias, gamma, beta,
        weight, grad_norm_weight, grad_norm_bias, grad_gamma, grad_beta, grad_weight, c, C, K, KP,
    )  # fmt: skip
    finish_up(sums, K, splits, ROWS, grad_up, 1.0, c, C, K, KP)
    tl.store(grad_up_bias + c, total_row(sums, 2 * K + 2 * R, splits, ROWS, c, C), mask=c < C)
    constant = tl.zeros((RP,), tl.float32)
    for p0 in range(0, prompt_blocks, 64):
        constant += tl.sum(matrix(prompt_sums, p0 + tl.arange(0, 64), r, prompt_blocks, R), 0)
    if tl.program_id(0) == 0:
        tl.store(grad_prompt_down_bias + r, constant, mask=r < R)
    finish_down(
        sums, 2 * K, splits, ROWS, constant, prompt_norm_weight, prompt_norm_bias, prompt_gamma, prompt_beta,
        prompt_weight, grad_prompt_norm_weight, grad_prompt_norm_bias, grad_prompt_gamma, grad_prompt_beta,
        grad_prompt_weight, c, C, R, RP,
    )  # fmt: skip
    pre = total_row(sums, 2 * K + 2 * R + 1, splits, ROWS, c, C)
    scale = tl.full((BC,), 1.0, tl.float32)
    if AFFINE:
        scale = vector(last_gamma, c, C)
        tl.store(grad_last_gamma + c, total_row(sums, 2 * K + 2 * R + 2, splits, ROWS, c, C), mask=c < C)
        tl.store(grad_last_beta + c, pre, mask=c < C)
    tl.store(grad_prompt_up_bias + c, pre * scale, mask=c < C)
    finish_up(sums, 2 * K + R, splits, ROWS, grad_prompt_up, scale[None, :], c, C, R, RP)
