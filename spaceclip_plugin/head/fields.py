"""Checked fields for frozen configs: bounded, finite, and strict about unknown keys."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

from spaceclip_plugin.errors import ConfigError, nearest

T = TypeVar("T")


def whole(name: str, value: object, low: int, high: int) -> int:
    """`value` if it is an integer in [low, high].

    Raises:
        ConfigError: anything else (bool and 3.0 included), naming the field.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ConfigError(f"{name} must be an integer from {low} to {high}, got {value!r}")
    return value


def real(name: str, value: object, low: float, high: float) -> float:
    """`value` as a float if it is a finite number in [low, high].

    Raises:
        ConfigError: anything else, naming the field.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise ConfigError(f"{name} must be a number from {low} to {high}, got {value!r}")
    return float(value)


def wholes(name: str, value: object, low: int, high: int, *, least: int, most: int) -> tuple[int, ...]:
    """A tuple of `least` to `most` integers in [low, high] from a list or tuple."""
    items = _sequence(name, value, least, most)
    return tuple(whole(f"{name}[{i}]", item, low, high) for i, item in enumerate(items))


def reals(name: str, value: object, low: float, high: float, *, length: int) -> tuple[float, ...]:
    """A tuple of `length` finite numbers in [low, high] from a list or tuple."""
    items = _sequence(name, value, length, length)
    return tuple(real(f"{name}[{i}]", item, low, high) for i, item in enumerate(items))


def text(name: str, value: object, *, most: int = 500) -> str:
    """A string of at most `most` characters."""
    if not isinstance(value, str) or len(value) > most:
        shown = repr(value) if len(repr(value)) < 80 else f"{type(value).__name__} of length {len(repr(value))}"
        raise ConfigError(f"{name} must be a string of at most {most} characters, got {shown}")
    return value


def build(kind: type[T], values: Mapping[str, Any], *, where: str) -> T:
    """An instance of dataclass `kind` from exactly its own keys; missing ones take the default.

    Raises:
        ConfigError: an unknown key, with the nearest known one.
    """
    known = [f.name for f in dataclasses.fields(kind)]  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            raise ConfigError(f"{where}: unknown key {key!r}{nearest(str(key), known)}; known are {', '.join(known)}")
    return kind(**values)


def _sequence(name: str, value: object, least: int, most: int) -> list[object]:
    if not isinstance(value, (list, tuple)) or not least <= len(value) <= most:
        count = str(least) if least == most else f"{least} to {most}"
        raise ConfigError(f"{name} must be a list of {count} values, got {value!r}")
    return list(value)
