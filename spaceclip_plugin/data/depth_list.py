"""RGB-D pairs named by a text file in the published NYU and KITTI format, one `rgb depth [focal]` per line."""

from __future__ import annotations

import dataclasses
import math
import os.path
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from typing_extensions import Self

from spaceclip_plugin.data.depth_pair import DepthPair, Lens
from spaceclip_plugin.data.image_files import check_units
from spaceclip_plugin.data.sample import DepthSample
from spaceclip_plugin.data.selective import SelectiveSource
from spaceclip_plugin.data.spec_fields import absolute, last_name, path_text, unit
from spaceclip_plugin.errors import DataError


@dataclass(frozen=True)
class ListData:
    """A list file as a config or a command line names it; see `DepthList`.

    Attributes:
        path: the list file.
        root: folder the list's paths are relative to; None is the list's own.
        units_per_metre: of its 16-bit PNGs; None is the evaluation protocol's.
    """

    path: str
    root: str | None = None
    units_per_metre: float | None = None

    def __post_init__(self) -> None:
        path_text("path of a list", self.path)
        if self.root is not None:
            path_text("root of a list", self.root)
        object.__setattr__(self, "units_per_metre", unit(self.units_per_metre))

    @classmethod
    def from_text(cls, text: str) -> Self:
        """The list file at a path."""
        return cls(text)

    @property
    def title(self) -> str:
        """The file's name."""
        return last_name(self.path)

    def resolved(self, base: Path) -> Self:
        """With `path` and `root` made absolute, starting from `base`."""
        root = None if self.root is None else absolute(self.root, base)
        return dataclasses.replace(self, path=absolute(self.path, base), root=root)

    def open(self, *, units_per_metre: float, skip_bad: bool = False) -> DepthList:
        """The pairs of the list; see `DepthList` for errors."""
        units = units_per_metre if self.units_per_metre is None else self.units_per_metre
        return DepthList(self.path, root=self.root, units_per_metre=units, skip_bad=skip_bad)


@dataclass(frozen=True)
class _Entry:
    """One usable line."""

    line: int
    pair: DepthPair


class DepthList(SelectiveSource[_Entry, int]):
    """A `DepthSource` over the pairs of a list file.

    Lines are `rgb depth [focal]`, separated by white space. Blank lines, and whatever follows a word that starts with
    `#`, are ignored. Paths are relative to `root`; a leading slash is too, as the NYU lists are written, unless that
    absolute file exists. A depth of `None`, as in the KITTI Eigen list, means no ground truth and makes a bad line.
    A focal length (pixels of that image) gives square pixels and a centred principal point.

    Construction parses every line and looks whether its files exist; it opens none of them. Their content is read by
    indexing, and checked as a whole by `check` or `validated`.

    Attributes:
        path, root, units_per_metre: as given; `root` is the list's own folder where none was.
        skipped: (line number, reason) of every line dropped because of `skip_bad`, in order of the file.
    """

    _noun = "lines"
    _expected = "lines `rgb depth [focal]`"

    def __init__(
        self,
        path: str | PathLike[str],
        *,
        root: str | PathLike[str] | None = None,
        units_per_metre: float = 1000.0,
        skip_bad: bool = False,
    ) -> None:
        """Parses the list.

        Args:
            path: the list file, UTF-8.
            root: folder the paths are relative to; the list's own by default.
            units_per_metre: of the depth PNG: 1000 for NYU, 256 for KITTI.
            skip_bad: drop lines that cannot be used, record them in `skipped` and log a warning. Otherwise they are
                an error.

        Raises:
            ConfigError: `units_per_metre` is not finite and positive.
            DataError: the list cannot be read, has bad lines (without `skip_bad`) or no usable line.
        """
        check_units(units_per_metre)
        self.path = Path(path)
        self.place = str(self.path)
        self.root = Path(root) if root is not None else self.path.parent
        self.units_per_metre = units_per_metre
        self.skip_bad = skip_bad
        good: list[_Entry] = []
        bad: list[tuple[int, str]] = []
        for line, text in enumerate(_lines(self.path), start=1):
            words = _words(text)
            if not words:
                continue
            try:
                good.append(_Entry(line, self._parse(line, words)))
            except DataError as error:
                bad.append((line, str(error)))
        self._keep(good, bad)

    def fingerprint(self, index: int) -> str:
        """SHA-256 of the files of a pair, the unit and the focal length; see `DepthPair.fingerprint`."""
        return self._entries[index].pair.fingerprint(units_per_metre=self.units_per_metre)

    def _read(self, entry: _Entry) -> DepthSample:
        return entry.pair.read(units_per_metre=self.units_per_metre)

    def _label(self, entry: _Entry) -> int:
        return entry.line

    def _parse(self, line: int, words: list[str]) -> DepthPair:
        where = f"{self.path.name}:{line}"
        if len(words) not in (2, 3):
            raise DataError(f"{where}: expected `rgb depth [focal]`, got {len(words)} words: {' '.join(words)}")
        if words[1] == "None":
            raise DataError(f"{where}: {words[0]} has no ground truth (depth is None); leave it out of the list")
        lens = _lens(words[2], where) if len(words) == 3 else None
        rgb, depth = self._locate(words[0]), self._locate(words[1])
        for file in (rgb, depth):
            if not os.path.isfile(file):
                raise DataError(f"{where}: no such file {file}; check it, or the folder given as root")
        return DepthPair(rgb, depth, f"{where} {words[0]}", where, lens)

    def _locate(self, word: str) -> Path:
        if os.path.isabs(word) and os.path.isfile(word):
            return Path(word)
        return self.root / word.lstrip("/")


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: expected a text file of lines `rgb depth [focal]`, but {error}") from error


def _words(text: str) -> list[str]:
    words = text.split()
    comment = next((i for i, word in enumerate(words) if word.startswith("#")), len(words))
    return words[:comment]


def _lens(word: str, where: str) -> Lens:
    try:
        focal_px = float(word)
    except ValueError:
        focal_px = math.nan
    if not (math.isfinite(focal_px) and focal_px > 0):
        raise DataError(f"{where}: expected a positive focal length in pixels as third word, got {word!r}")
    return Lens(focal_px, focal_px)
