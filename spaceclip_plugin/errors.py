"""Every error this package raises on purpose.

SpaceClipError
├── ConfigError              a setting, key or value that is not allowed
├── HostError                the host model, or what was asked of it
│   ├── TowerNotFoundError   no vision tower, or none of that name
│   ├── AmbiguousTowerError  several towers where one is meant
│   ├── AdapterError         an adapter is unknown, clashes or does not understand its tower
│   └── CaptureError         the host ran, but the taps did not see what the head needs
├── HeadMismatchError        a head that does not fit the tower
├── CheckpointError          a file that is not a head or a checkpoint of a run, or is damaged
├── DataError                an image, depth map, list or folder that cannot be used
├── TeacherError             a teacher that cannot be had, or whose depth cannot be used
├── ExportError              a head that cannot become a file of another format
└── TrainingError            a run that cannot start or must stop

A message says what was given, what was expected and what to do next.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class SpaceClipError(Exception):
    """Root of every error this package raises on purpose.

    Example:
        >>> from spaceclip_plugin import DepthHeadConfig
        >>> try:
        ...     DepthHeadConfig(width=0)
        ... except SpaceClipError as error:
        ...     print(error)
        width must be an integer from 1 to 16384, got 0
    """


class ConfigError(SpaceClipError, ValueError):
    """A setting, key or value that is not allowed."""


class HostError(SpaceClipError):
    """The host model, or what was asked of it."""


class TowerNotFoundError(HostError, LookupError):
    """The host has no vision tower that can be tapped, or none of that name."""


class AmbiguousTowerError(HostError, LookupError):
    """The host has several vision towers, and nothing says which one is meant."""


class AdapterError(HostError):
    """An adapter is unknown, clashes with another, or does not understand its tower."""


class CaptureError(HostError, RuntimeError):
    """The host ran, but the taps did not see what the head needs."""


class HeadMismatchError(SpaceClipError, ValueError):
    """A head that does not fit the tower it is attached to."""


class CheckpointError(SpaceClipError, ValueError):
    """A file that is not a head or a checkpoint of a run, or is damaged."""


class DataError(SpaceClipError, ValueError):
    """An image, depth map, list or folder that cannot be used."""


class TeacherError(SpaceClipError, RuntimeError):
    """A teacher that cannot be had, or whose depth cannot be used."""


class ExportError(SpaceClipError, RuntimeError):
    """A head that cannot become a file of another format, or whose file would give another depth."""


class TrainingError(SpaceClipError, RuntimeError):
    """A run that cannot start or must stop."""


def nearest(name: object, known: Iterable[str]) -> str:
    """` (did you mean 'x'?)` when a known name is close to `name`, else an empty string."""
    match = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5) if isinstance(name, str) else []
    return f" (did you mean {match[0]!r}?)" if match else ""
