"""Finds the state dict in what a training script saved beside it, and takes wrappers off its names."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import UserError, nearest
from .pickles import Placeholder, Unreadable
from .report import first

logger = logging.getLogger("ivtuning")

# The names under which a training script saves the model that trains, best first.
_LIVE = (
    *("model", "state_dict", "model_state_dict", "model_state", "module", "net", "network", "params"),
    *("weights", "state"),
)
# What else a checkpoint holds that may have tensors in it.
_OTHER = re.compile(
    r"optim|sched|scaler|rng|random|hyper|loop|callback|hub|meta|trainer|^args?$|config|cfg|loss|criterion"
)
# Parts of names that wrappers add: torch.compile, FSDP, activation checkpointing.
_WRAPPERS = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")


def find_state(content: Any, key: str | None, path: str) -> dict[str, Tensor]:
    """The tensors of one model in the `content` of the file at `path`, by their names.

    Args:
        key: which of several: where it lies in the file ("ema", or "ema.model"), or the first part of its
            tensors' names; None takes the model that trains.

    Raises:
        UserError: there is none, or there are several to choose from, or a tensor that cannot be read.
    """
    if isinstance(content, Placeholder):
        raise UserError(f"{path}: {_object('is', content)}")
    if not isinstance(content, Mapping):
        raise UserError(
            f"{path}: holds no state dict but a {type(content).__name__}: save model.state_dict()"
        )
    states = {place: state for place, state, _ in _states(content)}
    if not states:
        raise UserError(f"{path}: {_lack(content)}")
    state = _chosen(states, key, path)
    tensors = {name: value for name, value in state.items() if _is_tensor(value)}
    for name, value in tensors.items():
        if not isinstance(name, str):
            raise UserError(f"{path}: a tensor's name is {name!r}, which is no text: save model.state_dict()")
        if isinstance(value, Unreadable):
            raise UserError(f"{path}: {name} is a {value.kind} tensor: save it as a dense one on the CPU")
    return _unwrapped({name: torch.as_tensor(value) for name, value in tensors.items()})


def without_common_part(names: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """`names` without the first part, such as "model.", that all of them share; None where there is none."""
    parts = {name.partition(".")[0] for name in names}
    if len(parts) != 1 or not all("." in name for name in names):
        return None
    return {name.partition(".")[2]: tensor for name, tensor in names.items()}


def _is_tensor(value: Any) -> bool:
    return isinstance(value, (Tensor, np.ndarray, np.generic, Unreadable))


def _states(
    content: Mapping, place: tuple[str, ...] = (), seen: set[int] | None = None
) -> list[tuple[str, Mapping, int]]:
    """Every state dict in `content`: its place, such as "model.state_dict", itself, and how many tensors."""
    seen = set() if seen is None else seen
    seen.add(id(content))
    count = sum(_is_tensor(value) for value in content.values())
    inner = []
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, Mapping) or _OTHER.search(key.lower()):
            continue
        if id(value) not in seen and len(place) < 4:
            inner += _states(value, (*place, key), seen)
    if count > max((n for _, _, n in inner), default=0) and any(isinstance(key, str) for key in content):
        return [(".".join(place), content, count)]
    return inner


def _chosen(states: Mapping[str, Mapping], key: str | None, path: str) -> Mapping:
    if key is not None:
        found = [place for place in states if place == key or f".{place}".endswith(f".{key}")]
        found = found or [place for place in states if f"{place}.".startswith(f"{key}.")]
        if len(found) == 1:
            return states[found[0]]
        parts = list(_parts(states, key))
        if not found and len(parts) == 1:
            return parts[0]
        held = first([place or "one state dict" for place in states])
        raise UserError(
            f"{path}: has {'several parts' if found or parts else 'no part'} {key!r}; it holds {held}"
            f"{nearest(key, states)}"
        )
    live = [place for place in states if all(part in _LIVE for part in place.split(".") if place)]
    found = live or list(states)
    if len(found) > 1:
        file, names = path.partition("?")[0], first(found)
        raise UserError(f"{path}: holds several state dicts ({names}): name one, as in {file}#{found[0]}")
    others = [place for place in states if place != found[0]]
    if others:
        held = ", ".join(map(repr, others[:8]))
        logger.info(
            "%s: taking %r; it also holds %s (choose with %s#%s)", path, found[0], held, path, others[0]
        )
    return states[found[0]]


def _parts(states: Mapping[str, Mapping], key: str) -> Iterator[dict]:
    """The tensors of each state whose names begin with `key`, without that beginning."""
    for state in states.values():
        start = f"{key}."
        part = {n[len(start) :]: t for n, t in state.items() if isinstance(n, str) and n.startswith(start)}
        if any(_is_tensor(value) for value in part.values()):
            yield part


def _unwrapped(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """`tensors` without the parts of names that wrappers add."""
    for part in _WRAPPERS:
        tensors = {re.sub(rf"(^|\.){part}", r"\1", name): tensor for name, tensor in tensors.items()}
    while tensors and all(name.startswith("module.") for name in tensors):
        tensors = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    return tensors


def _lack(content: Mapping) -> str:
    """What is wrong with a file whose `content` has no state dict."""
    for key, value in content.items():
        if isinstance(value, Placeholder) and str(key) in (*_LIVE, "ema"):
            return _object(f"its {key!r} is", value)
    names = first([str(key) for key in content]) or "none"
    return f"holds no tensors by name, its keys are {names}: save model.state_dict()"


def _object(what: str, value: Placeholder) -> str:
    return (
        f"{what} a pickled {value.name}, which would run its code on loading: if you trust the file, load it "
        "where it was written and save model.state_dict() alone"
    )
