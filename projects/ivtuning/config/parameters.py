"""The keywords that a LazyCall's target accepts."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from ..utils.targets import locate_target


def accepted_keywords(target: Any) -> frozenset[str] | None:
    """Keywords that `target` accepts; None where any may be right (``**kwargs`` to somewhere unseen)."""
    target = locate_target(target)
    if not isinstance(target, type):
        names, is_open = _signature(target)
        return None if is_open else names
    # A class hands its **kwargs on to the next __init__ in line. The line ends at nn.Module: it declares
    # (*args, **kwargs) but accepts no arguments.
    line = [c for c in target.__mro__[:-1] if "__init__" in vars(c)]
    names, is_open = (frozenset(), False) if line else _signature(target)
    for cls in line:
        if (cls.__module__, cls.__name__) == ("torch.nn.modules.module", "Module"):
            break
        more, is_open = _signature(functools.partial(vars(cls)["__init__"], None))
        names |= more
        if not is_open:
            break
    return None if is_open else names


def _signature(function: Callable) -> tuple[frozenset[str], bool]:
    """(keyword names, whether there is a ``**kwargs``), seen through functools.wraps decorators."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # written in C
        return frozenset(), True
    keywords = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    names = frozenset(p.name for p in parameters if p.kind in keywords)
    return names, any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)
