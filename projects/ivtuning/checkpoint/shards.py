"""Tensors that are sharded over processes (DTensor): gathered for files, and sharded again from them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from detectron2.utils import comm
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor


def gathered(value: Any) -> Any:
    """A copy of the nested `value` in which every sharded tensor is whole and on the CPU.

    All processes must call it with the same structure. Only the main process keeps what was sharded; the
    others get None in its place, so that no more than one whole tensor is held at a time.
    """
    if isinstance(value, DTensor):
        whole = value.full_tensor()
        return whole.cpu() if comm.is_main_process() else None
    if isinstance(value, Mapping):
        return {k: gathered(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return (tuple if isinstance(value, tuple) else list)(gathered(v) for v in value)
    return value


def share(whole: Tensor, like: Tensor) -> Tensor:
    """`whole`, sharded like the tensor `like`; unchanged where `like` is not sharded.

    Every process has `whole` already, so they do not communicate.
    """
    if not isinstance(like, DTensor):
        return whole
    return distribute_tensor(whole, like.device_mesh, like.placements, src_data_rank=None)


def share_optimizer(state: dict, optimizer: torch.optim.Optimizer) -> dict:
    """A whole state dict as `optimizer` loads it: moments are sharded like their parameters."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]

    def shared(index: int, value: Any) -> Any:
        if index < len(parameters) and isinstance(value, Tensor) and value.shape == parameters[index].shape:
            return share(value, parameters[index])
        return value

    moments = {i: {k: shared(i, v) for k, v in moment.items()} for i, moment in state["state"].items()}
    return {**state, "state": moments}
