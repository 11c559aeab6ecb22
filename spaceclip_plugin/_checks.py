"""Checked fields for frozen configs: bounded, finite, and strict about unknown keys; ConfigError for all else."""

from __future__ import annotations

import dataclasses
import math
import operator
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any, SupportsFloat, SupportsIndex, TypeVar, cast

from spaceclip_plugin.errors import ConfigError, nearest

T = TypeVar("T")

_SHOWN_CHARACTERS = 80


def whole(name: str, value: object, low: int, high: int) -> int:
    """`value` if it is an integer in [low, high], neither bool nor 3.0; for configs, which are written to files."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ConfigError(f"{name} must be an integer from {low} to {high}, got {shown(value)}")
    return value


def integer(name: str, value: object, low: int, high: int, *, meaning: str = "") -> int:
    """`value` as an int if it is one number in [low, high] of any integer type, numpy's or a tensor's too; for
    arguments of calls. `meaning` tells the error's reader what the number is and how to get it."""
    found = _index(value)
    if found is None or not low <= found <= high:
        meant = f" ({meaning})" if meaning else ""
        raise ConfigError(f"{name} must be an integer from {low} to {high}{meant}, got {shown(value)}")
    return found


def size_hw(name: str, value: object, *, max_side: int = 1 << 30) -> tuple[int, int]:
    """(height, width) in pixels from a pair of integers of any type, as arrays' shapes and arithmetic give them."""
    sides = [_index(side) for side in value] if isinstance(value, (tuple, list)) else []
    found = [side for side in sides if side is not None and 1 <= side <= max_side]
    if len(sides) != 2 or len(found) != 2:
        bounds = f"from 1 to {max_side}" if max_side < 1 << 30 else "at least 1"
        raise ConfigError(f"{name} must be (height, width) in pixels, each {bounds}, got {shown(value)}")
    return found[0], found[1]


def number(value: object) -> float:
    """One number of any real type, Python's, numpy's or a tensor's, as a float; NaN for anything else."""
    if isinstance(value, (str, bytes)) or not _is_one_number(value):
        return math.nan
    try:
        return float(cast(SupportsFloat, value))
    except (TypeError, ValueError, OverflowError):
        return math.nan


def _index(value: object) -> int | None:
    """What Python would index a list by; None for what is no integer."""
    if not _is_one_number(value):
        return None
    try:
        return operator.index(cast(SupportsIndex, value))
    except TypeError:
        return None


def _is_one_number(value: object) -> bool:
    """Neither a truth value, whoever's it is, nor an array."""
    is_truth = isinstance(value, bool) or "bool" in str(getattr(value, "dtype", ""))
    return not is_truth and not len(getattr(value, "shape", ()))


def real(name: str, value: object, low: float, high: float) -> float:
    """`value` as a float if it is a finite number in [low, high]."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise ConfigError(f"{name} must be a number from {low} to {high}, got {shown(value)}")
    return float(value)


def wholes(name: str, value: object, low: int, high: int, *, length: int | tuple[int, int]) -> tuple[int, ...]:
    """A tuple of integers in [low, high] from a list or tuple of that length, or of a length between these two."""
    return tuple(whole(f"{name}[{i}]", item, low, high) for i, item in _items(name, value, length))


def reals(name: str, value: object, low: float, high: float, *, length: int) -> tuple[float, ...]:
    """A tuple of `length` finite numbers in [low, high] from a list or tuple."""
    return tuple(real(f"{name}[{i}]", item, low, high) for i, item in _items(name, value, length))


def _items(name: str, value: object, length: int | tuple[int, int]) -> Iterable[tuple[int, object]]:
    low, high = (length, length) if isinstance(length, int) else length
    if not isinstance(value, (list, tuple)) or not low <= len(value) <= high:
        count = str(low) if low == high else f"{low} to {high}"
        raise ConfigError(f"{name} must be a list of {count} values, got {shown(value)}")
    return enumerate(value)


def text(name: str, value: object, *, max_length: int = 500) -> str:
    """A string of 1 to `max_length` characters that says something and can be written to a file and to a terminal."""
    if not isinstance(value, str) or not value.strip() or len(value) > max_length:
        raise ConfigError(f"{name} must be a string of 1 to {max_length} characters, got {shown(value)}")
    # Lone surrogates (a file name that is not UTF-8 gives them) cannot be saved; escape codes would reach a terminal.
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in value):
        raise ConfigError(f"{name} must be one line of Unicode text without control characters, got {shown(value)}")
    return value


def truth(name: str, value: object) -> bool:
    """`value` if it is True or False; no number or word counts as one."""
    if not isinstance(value, bool):
        raise ConfigError(f"{name} must be true or false, got {shown(value)}")
    return value


def choice(name: str, value: object, known: Iterable[str]) -> str:
    """`value` if it is one of the `known` names."""
    names = list(known)
    if not isinstance(value, str) or value not in names:
        raise ConfigError(f"{name} must be one of {', '.join(names)}, got {shown(value)}{nearest(value, names)}")
    return value


def build(kind: type[T], values: Mapping[str, Any], *, where: str) -> T:
    """An instance of dataclass `kind` from exactly its own keys; missing ones take the default."""
    check_keys(kind, values, where=where)
    return kind(**values)


def check_keys(kind: type[Any], values: Mapping[str, Any], *, where: str, complete: bool = False) -> None:
    """Check that `values` has no key but the fields of dataclass `kind`, and every one of them where `complete`."""
    known = [field.name for field in dataclasses.fields(kind)]
    for key in values:
        if key not in known:
            raise unknown_key(key, known, where=where)
    missing = [name for name in known if name not in values]
    if complete and missing:
        raise ConfigError(f"{where}: missing key {missing[0]!r}; a saved config names every one of {', '.join(known)}")


def unknown_key(key: object, known: list[str], *, where: str) -> ConfigError:
    """The error for a key that is not among the `known` ones; names the nearest."""
    return ConfigError(f"{where}: unknown key {shown(key)}{nearest(key, known)}; known are {', '.join(known)}")


def shown(value: object) -> str:
    """`repr(value)` for a message, shortened: what a file holds may be of any length."""
    try:
        full = repr(value)
    except ValueError:  # Python refuses to spell out an integer of thousands of digits
        return f"{type(value).__name__} too long to show"
    return full if len(full) <= _SHOWN_CHARACTERS else f"{full[:_SHOWN_CHARACTERS]}…"
