"""Every kind of data this package reads: what `--data` and a config's `source:` may say. A new kind is one entry here.

A kind is a `DataSpec`, a frozen dataclass beside its source, in a file of its own. tests/data/test_sources.py holds
each to the same contract.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Protocol

from typing_extensions import Self

from spaceclip_plugin._checks import build, shown
from spaceclip_plugin.bridges.lerobot.dataset import LeRobotData
from spaceclip_plugin.data.sample import DepthSource
from spaceclip_plugin.data.sources.depth_list import ListData
from spaceclip_plugin.data.sources.image_folder import FolderData
from spaceclip_plugin.errors import ConfigError, nearest
from spaceclip_worlds.render.tabletop import SceneData

_log = logging.getLogger(__name__)
_DEFAULT = "list"
_KEY = "source"


class DataSpec(Protocol):
    """Which data, without having looked at it: a frozen dataclass of strings, numbers and None, checked when made."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @classmethod
    def from_text(cls, text: str) -> Self:
        """From what follows `KIND:` on the command line.

        Raises:
            ConfigError: the text is not of this kind.
        """
        ...

    @property
    def title(self) -> str:
        """One line for records, without the folders around it: "train.txt", "scenes (400)"."""
        ...

    def resolved(self, base: Path) -> Self:
        """The same data with relative paths made absolute, starting from `base`."""
        ...

    def open(self, *, units_per_metre: float, skip_bad: bool = False) -> DepthSource:
        """The samples.

        Args:
            units_per_metre: of integer depth maps where the spec has no unit of its own.
            skip_bad: leave out what cannot be used and record it in `skipped`, instead of an error.

        Raises:
            DataError: the data is absent, empty or bad. Names it.
        """
        ...


SOURCES: dict[str, type[DataSpec]] = {
    "list": ListData,
    "folder": FolderData,
    "lerobot": LeRobotData,
    "scenes": SceneData,
}


def source_from_text(text: str) -> DataSpec:
    """What a command-line argument means: `KIND:…` for a kind in `SOURCES`, else the path of a list.

    A path that is no list but a folder is taken for what it plainly holds, and a line of the log says so: photos and
    depth in `rgb` and `depth`, or a LeRobot data set.

    Args:
        text: "train.txt", "list:train.txt", "folder:DIR", "lerobot:ID-or-DIR", "scenes:400". A list whose name starts
            with the name of a kind and a colon is written "list:…".

    Raises:
        ConfigError: nothing follows the colon, or not what the kind expects; or a folder of something else.
    """
    kind, separator, rest = text.partition(":")
    if separator and kind in SOURCES:
        return SOURCES[kind].from_text(rest)
    spec = SOURCES[_DEFAULT].from_text(text)
    return _folder(Path(text)) if Path(text).is_dir() else spec


def _folder(path: Path) -> DataSpec:
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
    return SOURCES[kind].from_text(str(path))


def source_from_mapping(mapping: Mapping[str, object]) -> DataSpec:
    """The spec in a config: `source` names the kind, the other keys are its fields.

    Raises:
        ConfigError: no or an unknown `source`, an unknown or missing key, or a value that cannot be.
    """
    kind = mapping.get(_KEY)
    known = ", ".join(SOURCES)
    if kind is None:
        raise ConfigError(f"data needs a key {_KEY!r}, one of {known}; got the keys {shown(list(mapping))}")
    if not isinstance(kind, str) or kind not in SOURCES:
        hint = nearest(kind, SOURCES) if isinstance(kind, str) else ""
        raise ConfigError(f"unknown {_KEY} {shown(kind)}{hint}; known are {known}")
    spec = SOURCES[kind]
    values = {key: value for key, value in mapping.items() if key != _KEY}
    for field in dataclasses.fields(spec):
        if field.default is dataclasses.MISSING and field.name not in values:
            raise ConfigError(f"{_KEY} {kind!r}: missing key {field.name!r}")
    return build(spec, values, where=f"{_KEY} {kind!r}")


def source_to_mapping(spec: DataSpec) -> dict[str, object]:
    """What `source_from_mapping` reads back as an equal spec: strings, numbers and None.

    Raises:
        ConfigError: a spec of a kind that is not in `SOURCES`.
    """
    for kind, known in SOURCES.items():
        if type(spec) is known:
            return {_KEY: kind, **dataclasses.asdict(spec)}
    raise ConfigError(f"a {type(spec).__name__} is no kind of data in SOURCES ({', '.join(SOURCES)}); add it there")
