"""Numbers that someone passed, checked in one way."""

from __future__ import annotations

import numbers
from typing import Any

from thalweg.errors import ArgumentError, ArgumentTypeError


def real(who: str, name: str, value: Any) -> float:
    """The value as a number.

    Raises:
        TypeError: It is none.
    """
    if not isinstance(value, numbers.Real):
        raise ArgumentTypeError(f"{who} got {name}={value!r}; it must be a number")
    return float(value)


def whole(who: str, name: str, value: Any, least: int) -> int:
    """The value as a whole number.

    Raises:
        TypeError: It is no number.
        ValueError: It is not whole, or too small.
    """
    number = real(who, name, value)
    if isinstance(value, bool) or not number.is_integer() or number < least:
        raise ArgumentError(f"{who} got {name}={value!r}; it must be a whole number >= {least}")
    return int(value)
