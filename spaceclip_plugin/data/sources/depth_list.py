"""RGB-D pairs named by a text file in the published NYU and KITTI format, one `rgb depth [focal]` per line."""

from __future__ import annotations

import dataclasses
import math
import os.path
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import ClassVar

from typing_extensions import Self

from spaceclip_plugin.data.files.depth_pair import DepthPair, Lens
from spaceclip_plugin.data.files.depth_values import StoredDepth
from spaceclip_plugin.data.files.faults import next_step
from spaceclip_plugin.data.files.names import existing
from spaceclip_plugin.data.files.ray_distance import AXIS
from spaceclip_plugin.data.files.ray_distance import distance as checked_distance
from spaceclip_plugin.data.sample import DepthSample
from spaceclip_plugin.data.sources.list_line import joined_names, words_of
from spaceclip_plugin.data.sources.pair_reader import PairReader
from spaceclip_plugin.data.sources.selective import SelectiveSource
from spaceclip_plugin.data.sources.spec_fields import absolute, last_name, path_text, unit
from spaceclip_plugin.errors import DataError


@dataclass(frozen=True)
class ListData:
    """A list file as a config or a command line names it; see `DepthList`.

    Attributes:
        path: the list file.
        root: folder the list's paths are relative to; None is the list's own.
        units_per_metre: of its integer depth (16-bit PNG or PGM); None is the run's, or the evaluation protocol's.
        distance: what its depth is measured along: "axis", the optical axis, or "ray", as Hypersim's.
    """

    kind: ClassVar[str] = "list"
    path: str
    root: str | None = None
    units_per_metre: float | None = None
    distance: str = AXIS

    def __post_init__(self) -> None:
        path_text("path of a list", self.path)
        if self.root is not None:
            path_text("root of a list", self.root)
        checked_distance(self.distance)
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
        return DepthList(
            self.path, root=self.root, units_per_metre=units, distance=self.distance, skip_bad=skip_bad
        )  # fmt: skip


@dataclass(frozen=True)
class _Entry:
    """One usable line."""

    line: int
    pair: DepthPair


class DepthList(SelectiveSource[_Entry, int]):
    """A `DepthSource` over the pairs of a list file.

    Lines are `rgb depth [focal]`, separated by white space. A name with a space in it stands in double or single
    quotes; or tabs separate the names of that line. Blank lines, and whatever follows a word that starts with `#`, are
    ignored. Paths are relative to `root`; a leading slash is too, as the NYU lists are written, unless that absolute
    file exists. Names match whether accents are composed or not (NFC, NFD). A depth of `None`, as in the KITTI Eigen
    list, means no ground truth and makes a bad line. A focal length (in pixels of the depth map) gives square pixels
    and a centred principal point.

    How photo and depth are turned and which sizes go together stands in `depth_pair.py`, what counts as unknown depth
    in `depth_values.py`.

    Construction parses every line and looks whether its files exist; it opens none of them. Their content is read by
    indexing, and checked as a whole by `check` or `validated`.

    Attributes:
        path, root: as given; `root` is the list's own folder where none was.
        units_per_metre: of its integer depth; None where all of its depth files hold metres.
        skipped: (line number, reason) of every line dropped because of `skip_bad`, in order of the file.
    """

    _noun = "lines"
    _expected = "lines `rgb depth [focal]`"

    units_per_metre: float | None

    def __init__(
        self,
        path: str | PathLike[str],
        *,
        root: str | PathLike[str] | None = None,
        units_per_metre: float = 1000.0,
        distance: str = AXIS,
        skip_bad: bool = False,
    ) -> None:
        """Parses the list.

        Args:
            path: the list file, UTF-8.
            root: folder the paths are relative to; the list's own by default.
            units_per_metre: of integer depth (16-bit PNG or PGM): 1000 for NYU, 256 for KITTI.
            distance: what depth is measured along: "axis", the optical axis, or "ray", which the focal length of the
                line converts.
            skip_bad: drop lines that cannot be used, record them in `skipped` and log a warning. Otherwise they are
                an error.

        Raises:
            ConfigError: `units_per_metre` is not finite and positive, or there is no such distance.
            DataError: the list cannot be read, has bad lines (without `skip_bad`) or no usable line.
        """
        self.path = Path(path)
        self.place = str(self.path)
        self._reader = PairReader(self.place, units_per_metre=units_per_metre, distance_along=distance)
        self.root = Path(root) if root is not None else self.path.parent
        self.skip_bad = skip_bad
        good: list[_Entry] = []
        bad: list[tuple[int, str]] = []
        for line, text in enumerate(_lines(self.path), start=1):
            words = words_of(text, self._is_file)
            if not words:
                continue
            try:
                good.append(_Entry(line, self._parse(line, words)))
            except DataError as error:
                bad.append((line, str(error)))
        self._keep(good, bad)
        in_units = any(entry.pair.in_units for entry in self._entries)
        self.units_per_metre = units_per_metre if in_units else None

    def fingerprint(self, index: int) -> str:
        """SHA-256 of the files of a pair, the unit and the focal length; see `DepthPair.fingerprint`."""
        return self._reader.fingerprint(self._entries[index].pair)

    def stored_depth(self, index: int) -> StoredDepth:
        """The depth of a line as its file holds it; see `DepthPair.stored_depth`."""
        return self._reader.stored(self._entries[index].pair)

    def units_of(self, index: int) -> float | None:
        """The unit of a line's depth; None where its file holds metres."""
        return self._reader.units_of(self._entries[index].pair)

    def _read(self, entry: _Entry) -> DepthSample:
        return self._reader.read(entry.pair)

    def _label(self, entry: _Entry) -> int:
        return entry.line

    def _parse(self, line: int, words: list[str]) -> DepthPair:
        where = f"{self.path.name}:{line}"
        if len(words) not in (2, 3):
            hint = self._spaces(words) or _separators(words)
            raise DataError(f"{where}: expected `rgb depth [focal]`, got {len(words)} words: {' '.join(words)}{hint}")
        if words[1] == "None":
            raise DataError(f"{where}: {words[0]} has no ground truth (depth is None); leave it out of the list")
        absent = [self._locate(word) for word in words[:2] if not self._is_file(word)]
        if absent:
            hint = self._spaces(words) or _separators(words)
            raise DataError(f"{where}: no such file {absent[0]}; check it, or the folder given as root{hint}")
        lens = _lens(words[2], where) if len(words) == 3 else None
        rgb, depth = self._locate(words[0]), self._locate(words[1])
        pair = DepthPair(rgb, depth, f"{where} {words[0]}", where, lens)
        return self._reader.check(pair, "give the focal length as third word of the line")

    def _locate(self, word: str) -> Path:
        if os.path.isabs(word) and os.path.isfile(word):
            return Path(word)
        return existing(self.root / word.lstrip("/"))

    def _is_file(self, word: str) -> bool:
        return os.path.isfile(self._locate(word))

    def _spaces(self, words: Sequence[str]) -> str:
        """The end of a message about words that look like parts of names with spaces in them."""
        names = joined_names(words, self._is_file)
        if names is not None:
            return f". There is a space in a name: quote it, as {' '.join(names)}"
        if len(words) > 3 or (len(words) == 3 and not _is_number(words[2])):
            return '. If there is a space in a name, quote it: "my photo.png" "my depth.png" 518.8'
        return ""


def _lines(path: Path) -> list[str]:
    expected = "expected a text file of lines `rgb depth [focal]`"
    if path.is_dir():
        raise DataError(
            f"{path}: {expected}, but it is a folder; a folder of photos and depth maps is given as folder:{path} (in "
            "a config, source: folder)"
        )
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: {expected}, but {error}") from error
    if content.startswith(b"version https://git-lfs"):
        raise DataError(f"{path}: {expected}, but {next_step(path)}")
    try:
        return content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: {expected} in UTF-8, but {error}; save it as UTF-8, if it is a list") from error


def _separators(words: Sequence[str]) -> str:
    """The end of a message about a line that another program's habits have shaped."""
    if any("," in word or ";" in word for word in words):
        return ". Names are separated by white space, not by commas"
    return ". Folders are separated by /" if any("\\" in word for word in words) else ""


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _lens(word: str, where: str) -> Lens:
    focal_px = float(word) if _is_number(word) else math.nan
    if not (math.isfinite(focal_px) and focal_px > 0):
        raise DataError(f"{where}: expected a positive focal length in pixels as third word, got {word!r}")
    return Lens(focal_px, focal_px)
