"""Settings as frozen dataclasses: beside its name, a field says its default, what it may be, and what it is for.
A file is read into such a class and a command line gets its flags from it (`cli/flags.py`); to make one checks it."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

from typing_extensions import Self

from spaceclip_plugin import _checks
from spaceclip_plugin.errors import ConfigError

NAME_AS_FLAG = ""


@dataclass(frozen=True)
class Setting:
    """What stands beside the type of a field, in `Annotated`."""

    check: Callable[[str, Any], Any]  # (name, value) to the value that is kept; a None that the type has is kept as is
    help: str
    flag: str | None = NAME_AS_FLAG  # None: it has none
    parse: Callable[[str], Any] | None = str  # raises ValueError; None: the flag has no value, and means True
    metavar: str | None = None
    choices: tuple[str, ...] | None = None


def whole(low: int, high: int, help: str, *, metavar: str = "N") -> Setting:
    """An integer in [low, high]."""
    return Setting(lambda name, value: _checks.whole(name, value, low, high), help, parse=int, metavar=metavar)


def real(low: float, high: float, help: str, *, flag: str | None = NAME_AS_FLAG) -> Setting:
    """A finite number in [low, high], kept as a float."""
    return Setting(lambda name, value: _checks.real(name, value, low, high), help, flag, float, "X")


def choice(known: Collection[str], help: str, *, flag: str = NAME_AS_FLAG) -> Setting:
    """One of a few names; one that is registered later is known, too."""
    return Setting(lambda name, value: _checks.choice(name, value, known), help, flag, choices=tuple(known))


def text(help: str, metavar: str = "NAME") -> Setting:
    """One line of text."""
    return Setting(_checks.text, help, metavar=metavar)


def truth(help: str) -> Setting:
    """True or False."""
    return Setting(_checks.truth, help, parse=None)


def as_path(name: str, value: object) -> Path:
    """The check of a path, which may be given as text."""
    if not isinstance(value, (str, Path)):
        raise ConfigError(f"{name} must be a path, got {_checks.shown(value)}")
    return Path(_checks.text(name, str(value), max_length=4096))


def floats(count: int) -> Callable[[str], tuple[float, ...]]:
    """The parser of so many numbers with commas between them."""

    def parse(words: str) -> tuple[float, ...]:
        values = tuple(float(word) for word in words.split(","))
        if len(values) != count:
            raise ValueError(f"expected {count} numbers, got {words!r}")
        return values

    return parse


@dataclass(frozen=True)
class Config:
    """Base of the settings of one thing: the type of every field is `Annotated` with its `Setting`."""

    def __post_init__(self) -> None:
        for name, hint in get_type_hints(type(self), include_extras=True).items():
            value, may_be_none = getattr(self, name), types.NoneType in get_args(hint.__origin__)
            if value is not None or not may_be_none:
                object.__setattr__(self, name, hint.__metadata__[0].check(name, value))

    @classmethod
    def settings(cls) -> dict[str, Setting]:
        """What every field is annotated with, by its name, those of base classes first."""
        return {name: hint.__metadata__[0] for name, hint in get_type_hints(cls, include_extras=True).items()}

    @classmethod
    def read(cls, where: str, value: object) -> Self:
        """The settings that a mapping describes, what is left out at its default; settings stay themselves."""
        if isinstance(value, cls):
            return value
        values = mapping(where, value)
        _checks.check_keys(cls, values, where=where)
        with within(where):
            return cls(**values)

    def to_mapping(self) -> dict[str, Any]:
        """What `read` reads back as equal settings: plain values, tuples and mappings of them."""
        return {field.name: _plain(getattr(self, field.name)) for field in dataclasses.fields(self)}


def mapping(name: str, value: object) -> dict[str, Any]:
    """A copy of a mapping of settings; anything else is a ConfigError."""
    if not isinstance(value, Mapping):
        raise ConfigError(f"{name} must be settings as `name: value`, got {_checks.shown(value)}; or leave it out")
    return dict(value)


@contextmanager
def within(where: str) -> Iterator[None]:
    """Errors of the block say where the value stands."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(map(_plain, value))
    if hasattr(value, "to_mapping"):
        return value.to_mapping()
    return str(value) if isinstance(value, Path) else value
