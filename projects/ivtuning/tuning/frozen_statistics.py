"""Running statistics of batch norms when a pass over the same batch is repeated."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


class FrozenStatistics(contextlib.ExitStack):
    """:func:`frozen_statistics` of `module`, which can be entered again, for a second backward pass."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self._module = module

    def __enter__(self) -> FrozenStatistics:
        self.enter_context(frozen_statistics(self._module))
        return self


@contextlib.contextmanager
def frozen_statistics(module: nn.Module) -> Iterator[None]:
    """Inside, batch norms of `module` in training mode use the batch's statistics without recording them.

    Activation checkpointing runs a block a second time in the backward pass. Without this, every batch would
    count twice in the running statistics, as it does in the paper's code.
    """
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm) and m.training]
    kept = [dict(norm.named_buffers(recurse=False)) for norm in norms]
    # They record into copies. With recording switched off, torch would keep fewer tensors in the second pass
    # than in the first, which checkpointing refuses.
    for norm, buffers in zip(norms, kept, strict=True):
        for name, buffer in buffers.items():
            setattr(norm, name, buffer.clone())
    try:
        yield
    finally:
        for norm, buffers in zip(norms, kept, strict=True):
            for name, buffer in buffers.items():
                setattr(norm, name, buffer)
