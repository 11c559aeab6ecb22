"""Every kind of data that `--data` and a config's `source:` may name, found through entry points like adapters.

tests/data/sources/test_sources.py holds each to the same contract.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

from spaceclip_plugin._checks import build, shown
from spaceclip_plugin.data.sources.spec import SourceSpec
from spaceclip_plugin.errors import ConfigError, nearest

GROUP = "spaceclip_plugin.sources"

_log = logging.getLogger(__name__)
_DEFAULT = "list"
_KEY = "source"


@functools.lru_cache(maxsize=1)
def source_kinds() -> dict[str, metadata.EntryPoint]:
    """The entry point of every kind of data of the installed packages, by name; none is imported."""
    kinds: dict[str, metadata.EntryPoint] = {}
    for point in sorted(metadata.entry_points(group=GROUP), key=lambda point: point.name):
        other = kinds.setdefault(point.name, point)
        if other.value != point.value:
            raise ConfigError(
                f"two kinds of data are called {point.name!r}: {other.value} and {point.value}; uninstall one"
            )
    return kinds


def spec_class(kind: str) -> type[SourceSpec]:
    """The spec of a kind of data, imported; ConfigError where there is none."""
    kinds = source_kinds()
    if kind not in kinds:
        raise ConfigError(f"unknown {_KEY} {shown(kind)}{nearest(kind, kinds)}; known are {', '.join(kinds)}")
    point = kinds[kind]
    try:
        found: type[SourceSpec] = point.load()
    except ImportError as error:  # of an optional package: the extra of the kind's name brings it
        package = point.dist.name if point.dist is not None else ""
        extras = point.dist.metadata.get_all("Provides-Extra") or [] if point.dist is not None else []
        remedy = f'pip install "{package}[{kind}]"' if kind in extras else f"reinstall {package}"
        raise ConfigError(f"{_KEY} {kind!r} ({point.value}) cannot be imported: {error}; {remedy}") from error
    if getattr(found, "kind", None) != kind:
        raise ConfigError(f"{_KEY} {kind!r} ({point.value}) is no spec of kind {kind!r}; ask whoever made the package")
    return found


def parse_source(named: str | Mapping[str, object]) -> SourceSpec:
    """The data that a command line or a config names.

    A text is `KIND:…`, or the path of a list. A path that is no list but a folder is taken for what it plainly holds,
    and a line of the log says so: photos and depth in `rgb` and `depth`, or a LeRobot data set. In a mapping, the key
    `source` names the kind; the others are the fields of its spec.

    Args:
        named: "train.txt", "list:train.txt", "folder:DIR", "lerobot:ID-or-DIR", "metaworld:1200", "scenes:400", or as
            a config has it: {"source": "folder", "path": "DIR"}. A list whose name starts with the name of a kind and a
            colon is written "list:…".

    Raises:
        ConfigError: no or an unknown kind, an unknown or missing key, or a value out of bounds; nothing follows the
            colon, or not what the kind expects; or a folder of something else.

    Example:
        >>> from spaceclip_plugin.data import parse_source
        >>> parse_source("list:nyu/train.txt") == parse_source({"source": "list", "path": "nyu/train.txt"})
        True
    """
    if not isinstance(named, str):
        return _from_mapping(named)
    kind, separator, rest = named.partition(":")
    if separator and kind in source_kinds():
        return spec_class(kind).from_text(rest)
    spec = spec_class(_DEFAULT).from_text(named)
    return _folder(Path(named)) if Path(named).is_dir() else spec


def source_mapping(spec: SourceSpec) -> dict[str, object]:
    """What `parse_source` reads back as an equal spec; ConfigError for one of a kind that is not installed."""
    kind = getattr(spec, "kind", None)
    if not isinstance(kind, str) or type(spec) is not spec_class(kind):
        raise ConfigError(f"data must be a spec of {', '.join(source_kinds())}, got {shown(spec)}")
    return {_KEY: kind, **dataclasses.asdict(spec)}


def _from_mapping(mapping: Mapping[str, object]) -> SourceSpec:
    kind = mapping.get(_KEY)
    if kind is None:
        known = ", ".join(source_kinds())
        raise ConfigError(f"data needs a key {_KEY!r}, one of {known}; got the keys {shown(list(mapping))}")
    if not isinstance(kind, str):
        raise ConfigError(f"unknown {_KEY} {shown(kind)}; known are {', '.join(source_kinds())}")
    spec = spec_class(kind)
    values = {key: value for key, value in mapping.items() if key != _KEY}
    for field in dataclasses.fields(spec):
        if field.default is dataclasses.MISSING and field.name not in values:
            raise ConfigError(f"{_KEY} {kind!r}: missing key {field.name!r}")
    return build(spec, values, where=f"{_KEY} {kind!r}")


def _folder(path: Path) -> SourceSpec:
    """What a folder without a word about its kind holds."""
    if (path / "meta" / "info.json").is_file():
        kind = "lerobot"
    elif (path / "rgb").is_dir() and (path / "depth").is_dir():
        kind = "folder"
    else:
        there = sorted(entry.name for entry in path.iterdir() if not entry.name.startswith("."))
        shown_ones = ", ".join(there[:5]) + (", …" if len(there) > 5 else "") if there else "nothing"
        raise ConfigError(
            f"{str(path)!r} is a folder, and it holds {shown_ones}; expected a list, or folder:{path} with photos in "
            "rgb and depth maps of the same names in depth (other names in a config: source: folder, images:, depth:)"
        )
    _log.info("%s is a folder: read as %s:%s", path, kind, path)
    return spec_class(kind).from_text(str(path))
