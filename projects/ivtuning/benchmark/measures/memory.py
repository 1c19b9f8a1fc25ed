"""Memory of a training step: what the forward pass keeps for the backward pass, and the allocator's peak."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks


def saved_bytes(module: nn.Module, run: Callable[[], object]) -> int:
    """Bytes that `run`, a forward pass of `module`, keeps for the backward pass.

    Every storage counts once and whole, however many views of it are kept; those of the module's parameters
    and buffers do not count. `run` returns what holds the graph. Only what goes through autograd's saved
    tensors is seen, which includes custom functions and torch's checkpointing.
    """
    own = {_key(t) for t in (*module.parameters(), *module.buffers())}
    # Kept alive until they are counted, because the address of a freed one is used again.
    kept: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: Tensor) -> Tensor:
        if _key(tensor) not in own:
            kept[_key(tensor)] = tensor.untyped_storage()
        return tensor.detach()  # the tensor itself would make a reference cycle

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        result = run()
    total = sum(storage.nbytes() for storage in kept.values())
    del result
    return total


def peak_bytes(run: Callable[[], object]) -> int | None:
    """The CUDA allocator's peak during `run`, less what was allocated before it; None without CUDA."""
    if not torch.cuda.is_available():
        return None
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    run()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def _key(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata
