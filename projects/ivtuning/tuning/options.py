"""Checks of a method's options. An error names the key that sets the option, and what to give instead."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real

from ..errors import UserError, nearest


def need_whole(key: str, value: object, least: int = 1) -> None:
    """Raise UserError unless `value` of the option `key`, such as "tuner.rank", is an int from `least`."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise UserError(f"{key}={value!r}: give a whole number from {least}")


def need_rate(key: str, value: object) -> None:
    """Raise UserError unless `value` of the option `key` is a number in [0, 1)."""
    if not isinstance(value, Real) or not 0 <= value < 1:  # type: ignore[operator]
        raise UserError(f"{key}={value!r}: give a rate from 0 to below 1")


def need_number(key: str, value: object, least: float | None = None) -> None:
    """Raise UserError unless `value` of the option `key` is a finite number, of at least `least`."""
    number = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    if not number or (least is not None and value < least):  # type: ignore[operator]
        raise UserError(f"{key}={value!r}: give a number" + ("" if least is None else f" from {least:g}"))


def need_choice(key: str, value: object, choices: Sequence[str | None]) -> None:
    """Raise UserError unless `value` of the option `key` is one of `choices`; None is written null."""
    if value not in choices:
        names = ["null" if choice is None else choice for choice in choices]
        listed = f"{', '.join(names[:-1])} or {names[-1]}"
        raise UserError(f"{key}={value!r}: give {listed}{nearest(str(value), names)}")
