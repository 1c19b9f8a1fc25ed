"""Memory: bytes saved for the backward pass, the allocator's peak, and runs that do not fit."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

T = TypeVar("T")


def saved_bytes(module: nn.Module, run: Callable[[], object]) -> int:
    """Bytes that `run`, a forward pass of `module`, saves for the backward pass.

    Every storage counts once and in full, however many views of it are saved. The module's parameters and
    buffers do not count. `run` must return something that keeps the graph alive. Only tensors that go through
    autograd's saved-tensor hooks are seen; that includes custom functions and torch's checkpointing.
    """
    own = {_key(t) for t in (*module.parameters(), *module.buffers())}
    # The storages stay alive until they are counted, because the address of a freed one is used again.
    saved: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: Tensor) -> Tensor:
        if _key(tensor) not in own:
            saved[_key(tensor)] = tensor.untyped_storage()
        return tensor.detach()  # the tensor itself would make a reference cycle

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        result = run()
    total = sum(storage.nbytes() for storage in saved.values())
    del result
    return total


def peak_bytes(run: Callable[[], object]) -> int | None:
    """The CUDA allocator's peak during `run`, minus what was allocated before it; None without CUDA."""
    if not torch.cuda.is_available():
        return None
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    run()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def attempt(run: Callable[[], T]) -> T | None:
    """The result of `run`, or None if CUDA runs out of memory; what `run` allocated is freed then."""
    with contextlib.suppress(torch.OutOfMemoryError):
        return run()
    # Only after the handler: the error's traceback holds the tensors of all its frames.
    release()
    return None


def fitting(makers: Mapping[str, Callable[[], T]]) -> dict[str, T]:
    """The results of `makers`, called one after another, without those that do not fit into memory."""
    results = ((name, attempt(make)) for name, make in makers.items())
    return {name: result for name, result in results if result is not None}


def release() -> None:
    """Free unreachable objects, and give CUDA's cached memory back."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def missing_note(measured: Mapping[str, object], *names: str) -> str:
    """The note of a row that needs all `names`: those that did not fit and are not in `measured`, or ""."""
    missing = [name for name in names if name not in measured]
    return f"out of memory: {', '.join(missing)}" if missing else ""


def _key(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata
