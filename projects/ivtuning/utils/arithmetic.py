"""Counted arithmetic: the FLOPs of matrix products and convolutions."""

from __future__ import annotations

import inspect
import re
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from ..errors import UserError

_aten = torch.ops.aten
# What torch's counter takes for free, by the operator whose formula holds for it as well.
_SAME_AS = {
    _aten.addmm_: _aten.addmm,
    _aten.baddbmm_: _aten.baddbmm,
    _aten._scaled_dot_product_flash_attention_for_cpu: _aten._scaled_dot_product_flash_attention,
    _aten._scaled_dot_product_flash_attention_for_cpu_backward: (
        _aten._scaled_dot_product_flash_attention_backward
    ),
}
_FORMULAS = {operator: inspect.unwrap(flop_registry[like]) for operator, like in _SAME_AS.items()}
# Names of operators that multiply, in place or not.
_PRODUCT = re.compile(
    r"(mm|mv|dot)_?$|^linear|^_trilinear|conv(?!ert)|attention|grid_sampler|rnn|lstm|gru|cdist"
)


class FlopCounter:
    """Counts the FLOPs of what runs inside: ``with FlopCounter() as counter: ...``, then ``counter.total()``.

    On the meta device counting takes no memory and no arithmetic.

    Raises:
        UserError: inside, an operator runs that multiplies, or that is not torch's own, and has no formula.
    """

    def __init__(self) -> None:
        self._modes = _Watch(), FlopCounterMode(display=False, custom_mapping=_FORMULAS)

    def __enter__(self) -> FlopCounter:
        for mode in self._modes:
            mode.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        for mode in reversed(self._modes):
            mode.__exit__(*error)

    def total(self) -> int:
        """The FLOPs so far, two for each multiply-accumulate."""
        return self._modes[1].get_total_flops()


class _Watch(TorchDispatchMode):
    """Refuses what would be taken for free. It sees the operators that compound ones consist of."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # noqa: ANN001, ANN204
        operator = func._overloadpacket
        free = operator not in flop_registry and operator not in _FORMULAS
        if free and (func.namespace not in ("aten", "prim", "prims") or _PRODUCT.search(operator.__name__)):
            raise UserError(f"the arithmetic of {operator} is not counted: add it to utils/arithmetic.py")
        return func(*args, **(kwargs or {}))
