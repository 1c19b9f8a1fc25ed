"""Counts what a pass asks of a GPU - launches, bytes, FLOPs - from shapes alone, on any machine."""

from __future__ import annotations

import contextlib
import functools
import math
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from ...errors import UserError
from ...utils.triton_support import triton

GROUPS = ("attention", "sites", "mlp", "norms", "other")
_PACKAGE = Path(__file__).parents[2]
# Code that belongs to a group, whatever module runs it; the first that fits counts. A trunk's own code adds
# up the residual stream, cuts windows and embeds patches.
_CODE = {
    _PACKAGE / "tuning/sites.py": "other",
    _PACKAGE / "tuning": "sites",
    _PACKAGE / "backbones/attention": "attention",
    _PACKAGE / "backbones/stream_norm.py": "norms",
    _PACKAGE / "backbones": "other",
}
# The parts of a module's name that decide its group; the first that is there counts.
_NAMES = {"tuner": "sites", "stem": "sites", "attn": "attention", "mlp": "mlp", "norm": "norms"}
# They allocate or rename; nothing is launched.
_FREE = ("empty", "new_empty", "_unsafe_view", "lift_fresh", "detach")


@dataclass
class Work:
    """What was counted: kernels launched, bytes read and written, and FLOPs."""

    launches: int = 0
    moved: int = 0
    flops: int = 0

    def __add__(self, other: Work) -> Work:
        return Work(self.launches + other.launches, self.moved + other.moved, self.flops + other.flops)


class OperatorCounter(TorchDispatchMode):
    """``with OperatorCounter(trunk) as counter: ...`` on the meta device or with fake tensors.

    Then `counter.work` has the work by group.

    One operator is one launch, unless it is a view. It reads its inputs and writes its outputs once;
    broadcast inputs count as they are stored. Triton kernels and torch's fused attention do nothing, and have
    no FLOPs: count these on the plain definitions.

    A group is one of :data:`GROUPS`: "sites" are the tuner and the stem, "attention" is with its
    projections, and "other" has the residual stream, windows, and the embedding of patches.
    """

    def __init__(self, trunk: nn.Module) -> None:
        super().__init__()
        self.work: dict[str, Work] = defaultdict(Work)
        self._groups = {id(module): _group(name) for name, module in trunk.named_modules()}
        self._open = contextlib.ExitStack()

    def __enter__(self) -> OperatorCounter:
        self._open.enter_context(_recorded_kernels(self))
        super().__enter__()
        self._open.enter_context(_Functions(self))
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._open.__exit__(*error)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # noqa: ANN001, ANN204
        result = func(*args, **(kwargs or {}))
        makes = any(isinstance(leaf, Tensor) for leaf in tree_leaves(result))
        if not makes or _is_view(func) or func._overloadpacket.__name__.startswith(_FREE):
            return result
        moved = [t for t in tree_leaves((args, kwargs, result)) if isinstance(t, Tensor)]
        formula = flop_registry.get(func._overloadpacket)
        flops = formula(*args, **(kwargs or {}), out_val=result) if formula else 0
        self.add(self.group(), moved, flops)
        return result

    def add(self, group: str, tensors: list[Tensor], flops: int = 0) -> None:
        """Count one launch that reads or writes every one of `tensors` once."""
        self.work[group] += Work(1, sum(map(_stored_bytes, tensors)), flops)

    def group(self) -> str:
        """The group of the innermost code, module or, in a backward pass, autograd node that has one."""
        frame = sys._getframe(2)
        while frame is not None:
            if group := _code_group(frame.f_code.co_filename):
                return group
            group = self._groups.get(id(frame.f_locals.get("self")), "other")
            if group != "other":
                return group
            frame = frame.f_back
        node = torch._C._current_autograd_node()
        return node.metadata.get("group", "other") if node is not None else "other"

    def mark(self, result: Any) -> None:
        """Let the autograd nodes of a function's `result` belong to the group of what runs now."""
        nodes = [leaf.grad_fn for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        while nodes:
            node = nodes.pop()
            if node is not None and "group" not in node.metadata:
                node.metadata["group"] = self.group()
                nodes += [previous for previous, _ in node.next_functions]


class _Functions(TorchFunctionMode):
    """Marks the autograd nodes of functions, and counts torch's fused attention as one launch a pass."""

    def __init__(self, counter: OperatorCounter) -> None:
        super().__init__()
        self.counter = counter

    def __torch_function__(self, func, types, args=(), kwargs=None):  # noqa: ANN001, ANN204
        if func is not F.scaled_dot_product_attention:
            result = func(*args, **(kwargs or {}))
            self.counter.mark(result)
            return result
        given = dict(zip(("query", "key", "value", "attn_mask"), args, strict=False)) | (kwargs or {})
        return _Attention.apply(
            self.counter, *(given[key] for key in ("query", "key", "value")), given.get("attn_mask")
        )


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, counter, q, k, v, mask):  # noqa: ANN001, ANN205
        out = torch.empty((*q.shape[:-1], v.shape[-1]), dtype=q.dtype, device=q.device)
        ctx.save_for_backward(q, k, v, mask, out)
        ctx.counter = counter
        counter.add("attention", [x for x in (q, k, v, mask, out) if x is not None])
        return out

    @staticmethod
    def backward(ctx, grad):  # noqa: ANN001, ANN205
        saved = ctx.saved_tensors
        grads = [torch.empty_like(x) if x is not None and x.requires_grad else None for x in saved[:4]]
        ctx.counter.add("attention", [x for x in (*saved, *grads, grad) if x is not None])
        return None, *grads


@functools.cache
def _code_group(file: str) -> str | None:
    """The group that the code in a file belongs to, if it has one."""
    path = Path(file)
    return next((group for code, group in _CODE.items() if code in (path, *path.parents)), None)


@functools.cache
def _group(name: str) -> str:
    """The group of the module called `name`."""
    parts = name.split(".")
    return next((g for key, g in _NAMES.items() if any(p.startswith(key) for p in parts)), "other")


@contextlib.contextmanager
def _recorded_kernels(counter: OperatorCounter) -> Iterator[None]:
    """Inside, a Triton kernel that is launched does nothing but count.

    Raises:
        UserError: this installation has no Triton.
    """
    if triton is None:
        raise UserError("launches are counted on Triton's kernels, which this installation of torch lacks")

    def launch(kernel, grid):  # noqa: ANN001, ANN202
        def run(*args: Any, **kwargs: Any) -> None:
            group = "attention" if "attention" in kernel.fn.__module__ else "sites"
            counter.add(group, [x for x in args if isinstance(x, Tensor)])

        return run

    with (
        triton.knobs.runtime.scope(),
        mock.patch.object(triton.runtime.KernelInterface, "__getitem__", launch),
    ):
        triton.knobs.runtime.interpret = True  # the kernels are called for tensors of any device
        yield


def _is_view(func: torch._ops.OpOverload) -> bool:
    """Whether the result shares the memory of an input that is not written to."""
    aliases = [r.alias_info for r in func._schema.returns]
    return bool(aliases) and all(alias is not None and not alias.is_write for alias in aliases)


def _stored_bytes(x: Tensor) -> int:
    """Bytes of the elements of `x` that are stored; broadcast ones are stored once."""
    return x.itemsize * math.prod(n for n, stride in zip(x.shape, x.stride(), strict=True) if stride)
