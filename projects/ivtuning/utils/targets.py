"""The callable behind a LazyCall's `_target_`."""

from __future__ import annotations

import pydoc
from typing import Any

from ..errors import UserError
from .text import one_line


def locate_target(target: Any) -> Any:
    """The callable behind `target`, which a saved config or an override gives as a dotted name.

    Raises:
        UserError: there is nothing of that name, or its module fails while it is imported.
    """
    if not isinstance(target, str):
        return target
    from detectron2.utils.registry import locate

    try:
        return locate(target)
    except ImportError as error:
        raise UserError(f"nothing to import at {target!r}") from error
    except pydoc.ErrorDuringImport as error:
        raise UserError(f"{target!r} cannot be imported: {one_line(error, most=300)}") from error


def target_name(target: Any) -> str:
    """What messages call a target."""
    return target if isinstance(target, str) else getattr(target, "__qualname__", repr(target))
