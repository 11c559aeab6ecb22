"""Checks of what a caller gives to the worlds."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable
from typing import Any

from spaceclip_plugin.errors import ConfigError, nearest


def whole(name: str, value: Any, low: int, high: int) -> int:
    """`value` as an int, if it is an integer of any type in [low, high].

    Raises:
        ConfigError: anything else (bool and 3.0 included), naming the field.
    """
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    if number is None or not low <= number <= high:
        raise ConfigError(f"{name} must be an integer from {low} to {high}, got {shown(value)}")
    return number


def real(name: str, value: Any, low: float, high: float) -> float:
    """`value` if it is a finite number in [low, high].

    Raises:
        ConfigError: anything else, naming the field.
    """
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not (is_number and math.isfinite(value) and low <= value <= high):
        raise ConfigError(f"{name} must be a number from {low} to {high}, got {shown(value)}")
    return float(value)


def choice(name: str, value: Any, known: Iterable[str]) -> str:
    """`value` if it is one of the `known` names.

    Raises:
        ConfigError: anything else, naming the field and the nearest known name.
    """
    names = list(known)
    if not isinstance(value, str) or value not in names:
        hint = nearest(value, names) if isinstance(value, str) else ""
        raise ConfigError(f"{name} must be one of {', '.join(names)}, got {shown(value)}{hint}")
    return value


def shown(value: object) -> str:
    """`repr(value)` for a message, cut after 80 characters."""
    try:
        return f"{value!r:.80}"
    except ValueError:  # Python refuses to spell out an integer of thousands of digits
        return f"{type(value).__name__} too long to show"
