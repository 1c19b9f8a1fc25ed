"""Checks of a trainer's saved state, before any of it is loaded: torch itself trusts what it loads."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import UserError

# What torch's optimizers keep for a parameter as one number, and what has the parameter's shape. All else, as
# the factors of Adafactor, has a shape of its own.
_SCALARS = ("step", "mu", "mu_product", "eta")
_SHAPED = (
    *("acc_delta", "ax", "exp_avg", "exp_avg_sq", "exp_inf", "grad_avg", "max_exp_avg_sq", "momentum_buffer"),
    *("prev", "square_avg", "step_size", "sum"),
)


def need(holds: bool, what: str) -> None:
    """Raise a UserError that says `what` unless it `holds`."""
    if not holds:
        raise UserError(what)


def is_number(value: Any) -> bool:
    """Whether `value` is a finite number, and no bool."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def is_count(value: Any) -> bool:
    """Whether `value` is an integer of 0 or more, and no bool."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def check_tensors(found: Any, own: Mapping[str, Tensor], what: str) -> None:
    """Check that `found` holds tensors of the same names and shapes as `own`.

    Raises:
        UserError: it does not; the message begins with `what`.
    """
    need(isinstance(found, Mapping), f"{what} is no dict")
    odd = [*(own.keys() - found.keys()), *(found.keys() - own.keys())]
    need(not odd, f"{what}: {len(odd)} other tensors ({', '.join(sorted(map(str, odd))[:2])}...)")
    for name, value in own.items():
        shape = tuple(found[name].shape) if isinstance(found[name], Tensor) else type(found[name]).__name__
        need(shape == tuple(value.shape), f"{what}: {name} is {shape}, not {tuple(value.shape)}")


def check_optimizer(state: Any, optimizer: torch.optim.Optimizer) -> None:
    """Check that `state` is a state dict of an optimizer like `optimizer`, over parameters of its shapes.

    Raises:
        UserError: it is not.
    """
    whole = isinstance(state, Mapping) and isinstance(state.get("state"), Mapping)
    need(whole and isinstance(state.get("param_groups"), list), "the optimizer's state is no state dict")
    own, found = optimizer.param_groups, state["param_groups"]
    need(len(own) == len(found), f"{len(found)} parameter groups of the optimizer, not {len(own)}")
    defaults = optimizer.state_dict()["param_groups"]
    for number, (group, default) in enumerate(zip(found, defaults, strict=True)):
        where = f"parameter group {number} of the optimizer"
        need(isinstance(group, Mapping), f"{where} is no dict")
        for key, value in default.items():
            need(key in group, f"{where} has no {key}: it is another optimizer's")
            need(_alike(group[key], value), f"{where}: {key}={group[key]!r}")
        need(group["params"] == default["params"], f"{where} has other parameters")
    parameters = [p for group in own for p in group["params"]]
    for index, moments in state["state"].items():
        need(is_count(index) and index < len(parameters), f"the optimizer has no parameter {index!r}")
        need(isinstance(moments, Mapping), f"the optimizer's state of parameter {index} is no dict")
        for name, value in moments.items():
            if name in (*_SCALARS, *_SHAPED):
                own_shape = () if name in _SCALARS else tuple(parameters[index].shape)
                if isinstance(value, Tensor):
                    shape = str(tuple(value.shape))
                    fits = shape == str(own_shape)
                else:
                    shape = repr(value)
                    fits = value is None or (name in _SCALARS and is_number(value))
                need(fits, f"the optimizer's {name} of parameter {index} is {shape}, not {own_shape}")
            need(
                not isinstance(value, Tensor)
                or not value.is_floating_point()
                or bool(value.isfinite().all()),
                f"the optimizer's {name} of parameter {index} holds NaN or infinite numbers",
            )


def _alike(found: Any, own: Any) -> bool:
    """Whether an option has the kind of value that `own` is, or an option that may be None has a value."""
    if own is None or found is None:
        return own is found or is_number(found) or isinstance(found, bool)
    if isinstance(own, bool):
        return isinstance(found, bool)
    if isinstance(own, (int, float)):
        return is_number(found)
    if isinstance(own, Sequence) and not isinstance(own, str):
        same = isinstance(found, Sequence) and len(found) == len(own)
        return same and all(_alike(a, b) for a, b in zip(found, own, strict=True))
    return isinstance(found, type(own))


def check_scaler(state: Any) -> None:
    """Check the state of a GradScaler, which is empty where there is no scaling. Raises a UserError."""
    need(isinstance(state, Mapping), "the scaler's state is no dict")
    for key, value in state.items():
        need(is_number(value), f"the scaler's {key} is {value!r}")


def check_schedule(state: Any, groups: int) -> None:
    """Check the state of the learning-rate schedule for so many parameter groups. Raises a UserError."""
    need(isinstance(state, Mapping), "the schedule's state is no dict")
    need(is_count(state.get("last_epoch")), f"the schedule's last_epoch is {state.get('last_epoch')!r}")
    rates = state.get("base_lrs")
    fits = isinstance(rates, list) and len(rates) == groups and all(map(is_number, rates))
    need(fits, f"the schedule's base_lrs are {rates!r}, not {groups} numbers")
