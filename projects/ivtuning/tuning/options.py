"""What a method's options may be; a wrong one is told by the key that sets it."""

from __future__ import annotations

from numbers import Real

from ..errors import UserError


def need_whole(key: str, value: object, least: int = 1) -> None:
    """Raise UserError where `value` of the option `key`, such as "tuner.rank", is no int from `least`."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise UserError(f"{key}={value!r}: give a whole number from {least}")


def need_rate(key: str, value: object) -> None:
    """Raise UserError where `value` of the option `key` is no number in [0, 1)."""
    if not isinstance(value, Real) or not 0 <= value < 1:
        raise UserError(f"{key}={value!r}: give a rate from 0 to below 1")


def need_number(key: str, value: object) -> None:
    """Raise UserError where `value` of the option `key` is no number."""
    if not isinstance(value, Real):
        raise UserError(f"{key}={value!r}: give a number")
