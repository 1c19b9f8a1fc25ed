"""Counts what makes the host wait for a device, on a CPU: the operations are the same there."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

# Operators whose result, or its size, the host reads.
OPERATORS = {
    "_local_scalar_dense",
    "is_nonzero",
    "equal",
    "nonzero",
    "masked_select",
    "_unique2",
    "unique_dim",
    "unique_consecutive",
    "repeat_interleave",
    "bincount",
}
# Methods that copy a tensor to the host; on a CPU they run no operator.
METHODS = {"tolist", "numpy", "cpu", "__array__"}
OURS, PARENT = ("ivtuning", "detectron2"), Path(torch.__file__).parent


class HostReads:
    """``with HostReads() as reads: ...``; `reads.count` has the operations by the module that asked for them.

    A module is the file of ivtuning or detectron2 that is nearest to the operation, such as
    "ivtuning/engine/trainer", or "backward" where autograd's own formulas ask.
    """

    def __init__(self) -> None:
        self.count: Counter[tuple[str, str]] = Counter()
        self._modes = _Methods(self), _Operators(self)

    def __enter__(self) -> HostReads:
        for mode in self._modes:
            mode.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        for mode in reversed(self._modes):
            mode.__exit__(*error)

    def add(self, what: str) -> None:
        frame = sys._getframe(2)
        while frame is not None:
            if frame.f_code.co_name == "_engine_run_backward":
                self.count["backward", what] += 1
                return
            parts = Path(frame.f_code.co_filename).with_suffix("").parts
            name = next((name for name in OURS if name in parts), None)
            if name and PARENT not in Path(frame.f_code.co_filename).parents:
                inside = parts[len(parts) - 1 - parts[::-1].index(name) :]
                self.count["/".join(inside), what] += 1
                return
            frame = frame.f_back
        self.count["", what] += 1

    def modules(self) -> set[str]:
        return {module for module, _ in self.count}


class _Operators(TorchDispatchMode):
    def __init__(self, reads: HostReads) -> None:
        super().__init__()
        self.reads = reads

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # noqa: ANN001, ANN204
        kwargs = kwargs or {}
        name = func._overloadpacket.__name__
        if name in OPERATORS and not (name == "repeat_interleave" and kwargs.get("output_size")):
            self.reads.add(name)
        elif name in ("index", "index_put", "index_put_", "_index_put_impl_") and any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        ):
            self.reads.add("index by a mask")
        elif name == "_to_copy" and torch.device(kwargs.get("device") or args[0].device) != args[0].device:
            self.reads.add("copy to another device")
        return func(*args, **kwargs)


class _Methods(TorchFunctionMode):
    def __init__(self, reads: HostReads) -> None:
        super().__init__()
        self.reads = reads

    def __torch_function__(self, func, types, args=(), kwargs=None):  # noqa: ANN001, ANN204
        if getattr(func, "__name__", "") in METHODS:
            self.reads.add(func.__name__)
        return func(*args, **(kwargs or {}))
