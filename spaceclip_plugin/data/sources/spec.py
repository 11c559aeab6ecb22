"""What a kind of data is before anything was read: a frozen dataclass that says which data, and opens it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeGuard, runtime_checkable

from typing_extensions import Self

from spaceclip_plugin._checks import real, text
from spaceclip_plugin.data.sample import DepthSource

_LONGEST_PATH = 4096
_UNITS = (1e-3, 1e6)


@runtime_checkable
class SourceSpec(Protocol):
    """Which data, without having looked at it: a frozen dataclass of strings, numbers and None, checked when made.

    A package registers its kind in the entry-point group `spaceclip_plugin.sources`.

    Example:
        >>> from spaceclip_plugin.data import parse_source
        >>> spec = parse_source("folder:data/kitchen")
        >>> spec.kind, spec.title
        ('folder', 'kitchen')
    """

    __dataclass_fields__: ClassVar[dict[str, Any]]

    kind: ClassVar[str]
    """The name of its entry point."""

    @classmethod
    def from_text(cls, text: str) -> Self:
        """From what follows `KIND:` on the command line.

        Raises:
            ConfigError: the text is not of this kind.
        """

    @property
    def title(self) -> str:
        """One line for records, without the folders around it: "train.txt", "scenes (400)"."""

    def resolved(self, base: Path) -> Self:
        """The same data with relative paths made absolute, starting from `base`."""

    def open(self, *, units_per_metre: float, skip_bad: bool = False) -> DepthSource:
        """The samples.

        Args:
            units_per_metre: of integer depth maps where the spec has no unit of its own.
            skip_bad: leave out what cannot be used and record it in `skipped`, instead of an error.

        Raises:
            DataError: the data is absent, empty or bad. Names it.
        """


@runtime_checkable
class PhotoSpec(Protocol):
    """A `SourceSpec` whose photos need not have depth."""

    def open_photos(self, *, units_per_metre: float, skip_bad: bool = False) -> DepthSource:
        """As `open`, photos without depth among the samples: their `depth_m` is 0 throughout, at the photo's size."""


@runtime_checkable
class RecordingSpec(SourceSpec, Protocol):
    """A `SourceSpec` of a robot's recordings: many frames a second that hardly differ, in episodes.

    A kind that has other data, too, says so in `recorded`; `is_recording` asks.
    """

    @property
    def camera(self) -> str | None:
        """Whose frames; None: the only camera's."""

    @property
    def stride(self) -> int | None:
        """Every how many frames one is taken; None: it is left open."""

    @property
    def episodes(self) -> str | None:
        """Which, such as "0-39,45"; None: all of them."""

    def recorded(self) -> bool:
        """Whether this data is such recordings; DataError where it cannot be opened."""

    def tells_depth(self) -> bool:
        """Whether depth was recorded beside the frames; DataError where the data cannot be opened."""

    def thinned(self) -> Self:
        """The same data with a number for every how many frames one is taken, where that was left open.

        Raises:
            DataError: the data cannot be opened.
        """

    def split(self, share: float) -> tuple[Self, Self]:
        """The same data in two parts, of which the second has about this share of the episodes and at least one.

        No episode is in both, and the same data is always split alike.

        Raises:
            DataError: the data cannot be opened, or has fewer than two episodes.
        """


def is_recording(spec: object) -> TypeGuard[RecordingSpec]:
    """Whether data is of a robot's recordings; DataError where that is in files that cannot be opened."""
    return isinstance(spec, RecordingSpec) and spec.recorded()


def open_photos(spec: SourceSpec, *, units_per_metre: float, skip_bad: bool = False) -> DepthSource:
    """The samples of which depth is to be learnt: those without any, too, where the kind of data can have them."""
    opened = spec.open_photos if isinstance(spec, PhotoSpec) else spec.open
    return opened(units_per_metre=units_per_metre, skip_bad=skip_bad)


class PathSpec:
    """What specs share whose text is the path of a file or folder."""

    path: str

    @classmethod
    def from_text(cls, text: str) -> Self:
        """The data at a path, everything else as it is by default."""
        return cls(text)  # type: ignore[call-arg]  # subclasses are dataclasses whose first field is the path

    @property
    def title(self) -> str:
        """The name of the file or folder itself."""
        return last_name(self.path)


def checked_path(name: str, value: object) -> str:
    """`value` if it can be the path of something; ConfigError otherwise."""
    return text(name, value, max_length=_LONGEST_PATH)


def checked_units(value: object) -> float | None:
    """`units_per_metre` of a spec: None, or a number that depth maps are written with; ConfigError otherwise."""
    return None if value is None else real("units_per_metre", value, *_UNITS)


def absolute(path: str, base: Path) -> str:
    """`path`, starting from `base` where it is relative; links and `..` stay as they are written."""
    return str(base.absolute() / path)


def last_name(path: str) -> str:
    """The name of a file or folder itself, also of `.` and `data/`."""
    return Path(path).name or Path(path).absolute().name or "data"
