"""Turns what pydantic finds wrong into the one line that a user gets."""

from __future__ import annotations

from pydantic import ValidationError

from ..errors import nearest


def first_fault(error: ValidationError, known: tuple[str, ...] = ()) -> str:
    """The first fault of `error` as ``field.path: what is wrong (what is there)``, without a remedy.

    Args:
        known: the names that are allowed; the nearest is suggested for an unknown one.
    """
    faults = error.errors(include_url=False)
    # A misspelled key is also a missing one.
    fault = next((fault for fault in faults if fault["type"] == "extra_forbidden"), faults[0])
    where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in fault["loc"]).lstrip(".")
    if fault["type"] == "extra_forbidden":
        return f"{where}: unknown{nearest(str(fault['loc'][-1]), known)}"
    message = fault["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    message = message.split(" or instance of ")[0].replace("a valid dictionary", "a group of keys")
    message = message[0].lower() + message[1:]
    shown = repr(fault["input"])
    shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
    prefix = f"{where}: " if where else ""
    # A fault of a whole group says what it is about.
    is_group = fault["type"] == "missing" or isinstance(fault["input"], dict)
    return f"{prefix}{message}" if is_group else f"{prefix}{message} (it is {shown})"
