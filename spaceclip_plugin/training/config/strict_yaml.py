"""The part of YAML that a settings file needs, read so that a file means one thing and runs nothing.

Plain words are read as in YAML 1.2's core schema, not as in 1.1: `1e-4` is a number, `no` and `off` are words, `010` is
ten and `12:30` is no number. What is written here reads the same in both.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from spaceclip_plugin._checks import shown
from spaceclip_plugin.errors import ConfigError

MOST_CHARACTERS = 1 << 20
MOST_VALUES = 20_000
DEEPEST = 16

_NULL = re.compile(r"null|Null|NULL|~|")
_TRUE = re.compile(r"true|True|TRUE")
_FALSE = re.compile(r"false|False|FALSE")
_WHOLE = re.compile(r"[-+]?[0-9]+")
_REAL = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
# No reader takes these for anything but text: they start with no digit or sign, and YAML 1.1 has no meaning for them.
_TEXT = re.compile(r"(?!(y|n|yes|no|on|off|true|false|null)\Z)([a-z_/]|\.(?![0-9in])).*", re.IGNORECASE)


def read_mapping(text: str, *, where: str) -> dict[str, Any]:
    """The mapping that a YAML text holds: strings, numbers, booleans, None, lists and mappings.

    Args:
        text: at most `MOST_CHARACTERS` characters.
        where: what the text is called in messages.

    Raises:
        ConfigError: malformed or too large; a key twice or not a word; an anchor, alias, tag or merge key; anything but
            one mapping.
    """
    if len(text) > MOST_CHARACTERS:
        raise ConfigError(f"{where}: longer than {MOST_CHARACTERS} characters; expected a small file of settings")
    try:
        content = _Reader(text).document()
    except yaml.MarkedYAMLError as error:
        line = "" if error.problem_mark is None else f"line {error.problem_mark.line + 1}: "
        raise ConfigError(f"{where}: {line}{error.problem or error.context}") from error
    except yaml.YAMLError as error:  # characters that no YAML may hold
        raise ConfigError(f"{where}: not YAML: {str(error).splitlines()[0]}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{where}: expected settings as `name: value`, one a line, got {shown(content)}")
    return content


def read_mapping_file(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The mapping in a YAML file; see `read_mapping`.

    Raises:
        ConfigError: there is no such file, it is not UTF-8 or larger than `MOST_CHARACTERS` bytes; see `read_mapping`.
    """
    where = os.fspath(path)
    try:
        with open(path, "rb") as handle:
            raw = handle.read(MOST_CHARACTERS + 1)
    except OSError as error:
        raise ConfigError(f"cannot read {where!r} ({error.strerror}); check the path") from error
    if len(raw) > MOST_CHARACTERS:
        raise ConfigError(f"{where}: larger than {MOST_CHARACTERS} bytes; expected a small file of settings")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{where}: not UTF-8 ({error}); save it as UTF-8 text") from error
    return read_mapping(text, where=where)


def write_mapping(content: Mapping[str, Any]) -> str:
    """YAML that `read_mapping` reads back equal (tuples as lists), in the order given.

    Args:
        content: strings, numbers, booleans, None, lists, tuples and mappings; a list of plain values takes one line.
    """
    events = [yaml.StreamStartEvent(), yaml.DocumentStartEvent(explicit=False), *_events(content)]
    events += [yaml.DocumentEndEvent(explicit=False), yaml.StreamEndEvent()]
    return str(yaml.emit(events, allow_unicode=True, width=1000))


class _Reader:
    """Builds plain values from the events of a parser, and stops at the first that has no place in a settings file."""

    def __init__(self, text: str) -> None:
        self._events = yaml.parse(text, Loader=yaml.SafeLoader)
        self._values = 0

    def document(self) -> Any:
        """The only document; None where there is none."""
        next(self._events)
        if isinstance(event := next(self._events), yaml.StreamEndEvent):
            return None
        value = self._value(next(self._events), depth=0)
        next(self._events)
        if not isinstance(event := next(self._events), yaml.StreamEndEvent):
            raise _problem("a second document (---) is not allowed here; remove it", event)
        return value

    def _value(self, event: Any, depth: int) -> Any:
        self._values += 1
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
            raise _problem("anchors and aliases (&name, *name) are not allowed here; write the value out", event)
        if event.tag is not None:
            raise _problem(f"tags (!name) are not allowed here, got {shown(event.tag)}; write a plain value", event)
        if self._values > MOST_VALUES or depth >= DEEPEST:
            raise _problem(f"more than {MOST_VALUES} values or {DEEPEST} levels; expected a few settings", event)
        if isinstance(event, yaml.MappingStartEvent):
            return self._mapping(depth)
        if isinstance(event, yaml.SequenceStartEvent):
            return self._list(depth)
        return _scalar(event)

    def _list(self, depth: int) -> list[Any]:
        content = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            content.append(self._value(event, depth + 1))
        return content

    def _mapping(self, depth: int) -> dict[str, Any]:
        content: dict[str, Any] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            key = self._value(event, depth + 1)
            if not isinstance(key, str):
                raise _problem(f"a key must be a word, got {shown(key)}; put it in quotes if it is one", event)
            if key == "<<":
                raise _problem("merge keys (<<) are not allowed here; write the settings out", event)
            if key in content:
                raise _problem(f"the key {shown(key)} appears twice; remove one", event)
            content[key] = self._value(next(self._events), depth + 1)
        return content


def _scalar(event: Any) -> str | float | bool | None:
    text: str = event.value
    if event.style is not None:  # in quotes
        return text
    if _NULL.fullmatch(text):
        return None
    if _TRUE.fullmatch(text) or _FALSE.fullmatch(text):
        return text.lower() == "true"
    if _REAL.fullmatch(text) and not _WHOLE.fullmatch(text):
        return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    try:
        return int(text) if _WHOLE.fullmatch(text) else text
    except ValueError as error:  # Python reads no integer of thousands of digits
        raise _problem(f"a number of {len(text)} digits is too long", event) from error


def _events(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping):
        yield yaml.MappingStartEvent(None, None, True, flow_style=not value)
        for key, item in value.items():
            yield from _events(key)
            yield from _events(item)
        yield yaml.MappingEndEvent()
    elif isinstance(value, (list, tuple)):
        in_line = not any(isinstance(item, (Mapping, list, tuple)) for item in value)
        yield yaml.SequenceStartEvent(None, None, True, flow_style=in_line)
        for item in value:
            yield from _events(item)
        yield yaml.SequenceEndEvent()
    elif isinstance(value, str):
        plain = value.isprintable() and _TEXT.fullmatch(value)
        yield yaml.ScalarEvent(None, None, (True, True), value, style=None if plain else '"')
    else:
        yield yaml.ScalarEvent(None, None, (True, False), _plain(value))


def _plain(value: float | None) -> str:
    """What both versions of YAML read as that value: 1.1 takes `1e-06` for text, and wants a point in it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    digits = repr(value)
    if not isinstance(value, float) or "." in digits:
        return digits
    return {"inf": ".inf", "-inf": "-.inf", "nan": ".nan"}.get(digits) or digits.replace("e", ".0e")


def _problem(problem: str, place: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=place.start_mark)
