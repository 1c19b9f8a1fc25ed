"""The number types of training and prediction: which there are, and whether this machine is fast in them."""

from __future__ import annotations

import logging
import time

import torch

from ..errors import UserError, nearest

PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
SLOW = 2  # times as long as float32

logger = logging.getLogger("ivtuning")


def autocast_dtype(precision: str, device: torch.device, key: str = "train.precision") -> torch.dtype | None:
    """The type that autocast computes in for `precision`; None for "fp32", which needs no autocast.

    Args:
        precision: "fp32", "bf16" (CUDA or CPU) or "fp16" (CUDA).
        device: where the model runs.
        key: how the user calls it.

    Raises:
        UserError: there is no such precision, or `device` does not have it.
    """
    if precision not in PRECISIONS:
        known = ", ".join(PRECISIONS)
        raise UserError(f"{key}={precision!r} is unknown: use {known}{nearest(str(precision), PRECISIONS)}")
    if precision == "fp16" and device.type == "cpu":
        raise UserError(f"{key}=fp16 needs CUDA: use bf16 or fp32 on the CPU")
    return PRECISIONS[precision]


def warn_if_slow(precision: str, device: torch.device, key: str = "train.precision") -> None:
    """Log a warning where `device` is a CPU that has no instructions for bfloat16, and emulates them."""
    if precision == "bf16" and device.type == "cpu" and (ratio := bfloat16_cost()) > SLOW:
        logger.warning(
            "bfloat16 products take %.0f times as long as float32's on this CPU: %s=fp32 is faster",
            ratio,
            key,
        )


def bfloat16_cost() -> float:
    """Seconds of a small matrix product in bfloat16, as a multiple of those in float32, on this CPU.

    It is measured, since torch does not say it of all processors.
    """
    return _seconds(torch.bfloat16) / _seconds(torch.float32)


def _seconds(dtype: torch.dtype, size: int = 256, repeats: int = 4) -> float:
    x = torch.ones(size, size, dtype=dtype)
    taken = []
    for _ in range(repeats):  # the first also starts threads and chooses a kernel
        start = time.perf_counter()
        torch.mm(x, x)
        taken.append(time.perf_counter() - start)
    return min(taken)
