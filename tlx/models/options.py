"""Checks of the options that several models share. Each raises a UserError that names the value and the fix."""

import math
import numbers
from collections.abc import Collection, Iterable
from typing import Any

from tlx.errors import UserError, did_you_mean


def check_rate(name: str, value: Any) -> float:
    """Returns `value` if it is a probability of dropping something, in [0, 1)."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not 0 <= value < 1:
        raise UserError(f"{name}={value!r}: give a number in [0, 1)")
    return float(value)


def check_factor(name: str, value: Any) -> float:
    """Returns `value` if it is a finite number > 0, by which the channels are multiplied."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not (math.isfinite(value) and value > 0):
        raise UserError(f"{name}={value!r}: give a number > 0, by which the channels are multiplied")
    return float(value)


def check_count(name: str, value: Any, *, minimum: int) -> int:
    """Returns `value` if it is a whole number of at least `minimum`."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < minimum:
        raise UserError(f"{name}={value!r}: give a whole number >= {minimum}")
    return int(value)


def check_widths(name: str, value: Any) -> tuple[int, ...]:
    """Returns `value` as a tuple if it is a non-empty sequence of positive whole numbers."""
    if isinstance(value, str) or not isinstance(value, Iterable) or not tuple(value):
        raise UserError(f"{name}={value!r}: give a non-empty tuple of widths, such as (32, 64)")
    return tuple(check_count(f"{name}[{i}]", width, minimum=1) for i, width in enumerate(value))


def check_choice(name: str, value: Any, choices: Collection[Any]) -> Any:
    """Returns `value` if it is one of `choices`."""
    if value not in choices:
        raise UserError(f"{name}={value!r}: use one of {', '.join(map(repr, choices))}{did_you_mean(value, choices)}")
    return value
