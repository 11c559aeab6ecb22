"""Checks that the fields of several data specs share."""

from __future__ import annotations

from pathlib import Path

from spaceclip_plugin._checks import real, text

_LONGEST_PATH = 4096
_UNITS = (1e-3, 1e6)


def path_text(name: str, value: object) -> str:
    """`value` if it can be the path of something.

    Raises:
        ConfigError: not a string of one line, or an empty one.
    """
    return text(name, value, most=_LONGEST_PATH)


def unit(value: object) -> float | None:
    """`units_per_metre` of a spec: None, or a number as a float.

    Raises:
        ConfigError: anything else, or a number that no depth map is written with.
    """
    return None if value is None else real("units_per_metre", value, *_UNITS)


def absolute(path: str, base: Path) -> str:
    """`path`, starting from `base` where it is relative; links and `..` stay as they are written."""
    return str(base.absolute() / path)


def last_name(path: str) -> str:
    """The name of a file or folder itself, also of `.` and `data/`."""
    return Path(path).name or Path(path).absolute().name or "data"
