"""YAML for settings, which runs nothing: plain words are read as in YAML 1.2's core schema, not as in 1.1, so `1e-4` is
a number, `no` is a word, `010` is ten and `12:30` is no number. What is written here reads the same in both."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any, ClassVar

import yaml

from spaceclip_plugin._checks import shown
from spaceclip_plugin.errors import ConfigError

MAX_BYTES = 1 << 20
MAX_VALUES = 20_000
MAX_LEVELS = 16

_TAG = "tag:yaml.org,2002:"
_WORDS = {
    "null": r"null|Null|NULL|~|",
    "bool": r"true|True|TRUE|false|False|FALSE",
    "int": r"[-+]?[0-9]+",
    "float": r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
}
# No reader takes these for anything but text: they start with no digit or sign, and YAML 1.1 has no meaning for them.
_TEXT = re.compile(r"(?!(y|n|yes|no|on|off|true|false|null)\Z)([a-z_/]|\.(?![0-9in])).*", re.IGNORECASE)


def read_mapping(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The mapping in a YAML file: strings, numbers, booleans, None, lists and mappings."""
    where = os.fspath(path)
    try:
        with open(path, "rb") as handle:
            raw = handle.read(MAX_BYTES + 1)
        if len(raw) > MAX_BYTES:
            raise ConfigError(f"{where}: larger than {MAX_BYTES} bytes; expected a small file of settings")
        return parse_mapping(raw.decode("utf-8"), where=where)
    except OSError as error:
        raise ConfigError(f"cannot read {where!r} ({error.strerror}); check the path") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{where}: not UTF-8 ({error}); save it as UTF-8 text") from error


def parse_mapping(text: str, *, where: str) -> dict[str, Any]:
    """The mapping that a YAML text holds; messages call it `where`."""
    try:
        content = yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        line = "" if error.problem_mark is None else f"line {error.problem_mark.line + 1}: "
        raise ConfigError(f"{where}: {line}{error.problem or error.context}") from error
    except yaml.YAMLError as error:  # characters that no YAML may hold
        raise ConfigError(f"{where}: not YAML: {str(error).splitlines()[0]}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{where}: expected settings as `name: value`, one a line, got {shown(content)}")
    return content


def write_mapping(content: Mapping[str, Any]) -> str:
    """YAML that `parse_mapping` reads back equal (tuples as lists), in the order given."""
    return str(yaml.dump(dict(content), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1000))


class _Loader(yaml.SafeLoader):  # type: ignore[misc]  # PyYAML has no types
    """Stops at the first value that has no place in a settings file, before anything is built from it."""

    yaml_implicit_resolvers: ClassVar[dict[str | None, list[tuple[str, re.Pattern[str]]]]] = {
        None: [(_TAG + name, re.compile(rf"(?:{words})\Z")) for name, words in _WORDS.items()]
    }

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._values = self._depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        self._values += 1
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
            raise _problem("anchors and aliases (&name, *name) are not allowed here; write the value out", event)
        if event.tag is not None:
            raise _problem(f"tags (!name) are not allowed here, got {shown(event.tag)}; write a plain value", event)
        if self._values > MAX_VALUES or self._depth >= MAX_LEVELS:
            raise _problem(f"more than {MAX_VALUES} values or {MAX_LEVELS} levels; expected a few settings", event)
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[str, Any]:
        content: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise _problem(f"a key must be a word, got {shown(key)}; put it in quotes if it is one", key_node)
            if key == "<<":
                raise _problem("merge keys (<<) are not allowed here; write the settings out", key_node)
            if key in content:
                raise _problem(f"the key {shown(key)} appears twice; remove one", key_node)
            content[key] = self.construct_object(value_node, deep=True)
        return content

    def construct_yaml_int(self, node: Any) -> int:
        try:
            return int(node.value)
        except ValueError as error:  # Python reads no integer of thousands of digits
            raise _problem(f"a number of {len(node.value)} digits is too long", node) from error


_Loader.add_constructor(_TAG + "int", _Loader.construct_yaml_int)


class _Dumper(yaml.SafeDumper):  # type: ignore[misc]
    """Quotes every text that some reader could take for something else."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_text(self, value: str) -> Any:
        plain = value.isprintable() and _TEXT.fullmatch(value)
        return self.represent_scalar(_TAG + "str", value, style=None if plain else '"')

    def represent_items(self, value: list[Any] | tuple[Any, ...]) -> Any:
        in_line = not any(isinstance(item, (Mapping, list, tuple)) for item in value)
        return self.represent_sequence(_TAG + "seq", value, flow_style=in_line)


_Dumper.add_representer(str, _Dumper.represent_text)
_Dumper.add_representer(list, _Dumper.represent_items)
_Dumper.add_representer(tuple, _Dumper.represent_items)


def _problem(problem: str, place: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=place.start_mark)
