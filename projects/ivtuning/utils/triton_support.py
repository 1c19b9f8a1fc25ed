"""Whether Triton kernels can run here. torch brings Triton along with CUDA, and none elsewhere."""

from __future__ import annotations

from torch import Tensor

try:
    import triton
except ImportError:
    triton = None


def why_no_triton(x: Tensor) -> str | None:
    """Why no Triton kernel can run on `x`, or None where one can.

    With ``TRITON_INTERPRET=1`` in the environment, kernels run in Python on tensors of the CPU, for tests.
    """
    if triton is None:
        return "this installation of torch has no triton"
    if not x.is_cuda and not triton.knobs.runtime.interpret:
        return f"Triton kernels need CUDA, and the model is on {x.device.type}"
    return None


def padded_width(width: int) -> int:
    """Tile width for `width` columns, rounded up to what tensor cores accept."""
    return max(16, triton.next_power_of_2(width))
