"""Running statistics under activation activation_checkpointing."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


@contextlib.contextmanager
def statistics_kept(module: nn.Module) -> Iterator[None]:
    """Inside, batch norms of `module` that train use the batch's statistics and leave the running ones alone.

    For a second pass over the same batch, which would count it twice (spec, bug 5 of the original).
    """
    # In evaluation the running ones are read, which the flag would turn off as well.
    norms = (m for m in module.modules() if isinstance(m, _BatchNorm))
    tracking = [m for m in norms if m.training and m.track_running_stats]
    for norm in tracking:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in tracking:
            norm.track_running_stats = True
