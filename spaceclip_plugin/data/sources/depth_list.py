"""RGB-D pairs named by a text file in the published NYU and KITTI format, one `rgb depth [focal]` per line."""

from __future__ import annotations

import dataclasses
import math
import os.path
import re
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import ClassVar

from typing_extensions import Self

from spaceclip_plugin.data.files.pairs import AXIS, DepthPair, Lens, checked_distance
from spaceclip_plugin.data.files.paths import existing, next_step
from spaceclip_plugin.data.sources.list_line import joined_names, words_of
from spaceclip_plugin.data.sources.pair_source import PairSource
from spaceclip_plugin.data.sources.spec import PathSpec, absolute, checked_path, checked_units
from spaceclip_plugin.errors import DataError

_LINE_END = re.compile("\r\n|\r|\n")


@dataclass(frozen=True)
class ListData(PathSpec):
    """A list file as a config or a command line names it; see `DepthList`."""

    kind: ClassVar[str] = "list"
    path: str
    root: str | None = None  # None: the list's own folder
    units_per_metre: float | None = None  # None: the run's, or the evaluation protocol's
    distance: str = AXIS

    def __post_init__(self) -> None:
        checked_path("path of a list", self.path)
        if self.root is not None:
            checked_path("root of a list", self.root)
        checked_distance(self.distance)
        object.__setattr__(self, "units_per_metre", checked_units(self.units_per_metre))

    def resolved(self, base: Path) -> Self:
        """With `path` and `root` made absolute, starting from `base`."""
        root = None if self.root is None else absolute(self.root, base)
        return dataclasses.replace(self, path=absolute(self.path, base), root=root)

    def open(self, *, units_per_metre: float, skip_bad: bool = False) -> DepthList:
        """The pairs of the list; see `DepthList` for errors."""
        return self._opened(units_per_metre, need_depth=True, skip_bad=skip_bad)

    def open_photos(self, *, units_per_metre: float, skip_bad: bool = False) -> DepthList:
        """The lines of the list, those without depth among them; see `DepthList` for errors."""
        return self._opened(units_per_metre, need_depth=False, skip_bad=skip_bad)

    def _opened(self, units_per_metre: float, *, need_depth: bool, skip_bad: bool) -> DepthList:
        return DepthList(
            self.path,
            root=self.root,
            units_per_metre=self.units_per_metre or units_per_metre,
            distance=self.distance,
            need_depth=need_depth,
            skip_bad=skip_bad,
        )


class DepthList(PairSource[int]):
    """A `DepthSource` over the pairs of a list file.

    Lines are `rgb depth [focal]`, separated by white space. A name with a space in it stands in double or single
    quotes; or tabs separate the names of that line. Blank lines, and whatever follows a word that starts with `#`, are
    ignored. Paths are relative to `root`; a leading slash is too, as the NYU lists are written, unless that absolute
    file exists. Names match whether accents are composed or not (NFC, NFD). A depth of `None`, as in the KITTI Eigen
    list, means no ground truth and makes a bad line. A focal length (in pixels of the depth map) gives square pixels
    and a centred principal point.

    How photo and depth are turned and which sizes go together stands in `files/pairs.py`, what counts as unknown depth
    in `files/depth_values.py`.

    Construction parses every line and looks whether its files exist; it opens none of them. Their content is read by
    indexing, and checked as a whole by `validated`.

    Attributes:
        path: the list.
        root: folder its paths are relative to.
        units_per_metre: of its integer depth; None where all of its depth files hold metres.
        skipped: (line number, reason) of every line dropped because of `skip_bad`, in order of the file.

    Example:
        >>> import numpy as np, pathlib, tempfile
        >>> from PIL import Image
        >>> from spaceclip_plugin.data import DepthList
        >>> with tempfile.TemporaryDirectory() as name:
        ...     folder = pathlib.Path(name)
        ...     Image.new("RGB", (4, 3)).save(folder / "photo.png")
        ...     Image.fromarray(np.full((3, 4), 1500, np.uint16)).save(folder / "depth.png")
        ...     _ = (folder / "train.txt").write_text("photo.png depth.png 500")
        ...     sample = DepthList(folder / "train.txt", units_per_metre=1000)[0]
        >>> float(sample.depth_m.max()), sample.intrinsics.fx_px
        (1.5, 500.0)
    """

    _noun = "lines"
    _expected = "lines `rgb depth [focal]`"

    def __init__(
        self,
        path: str | PathLike[str],
        *,
        root: str | PathLike[str] | None = None,
        units_per_metre: float = 1000.0,
        distance: str = AXIS,
        need_depth: bool = True,
        skip_bad: bool = False,
    ) -> None:
        """Parses the list.

        Args:
            path: the list file, UTF-8.
            root: folder the paths are relative to; the list's own by default.
            units_per_metre: of integer depth (16-bit PNG or PGM): 1000 for NYU, 256 for KITTI.
            distance: what depth is measured along: "axis", the optical axis, or "ray", which the focal length of the
                line converts.
            need_depth: whether a line without depth (`rgb`, or `None` in place of the depth) is bad. Otherwise the
                depth of its photo is unknown throughout: a teacher may give it.
            skip_bad: drop lines that cannot be used, record them in `skipped` and log a warning. Otherwise they are
                an error.

        Raises:
            ConfigError: `units_per_metre` is not finite and positive, or there is no such distance.
            DataError: the list cannot be read, has bad lines (without `skip_bad`) or no usable line.
        """
        self.path = Path(path)
        self.root = Path(root) if root is not None else self.path.parent
        self.need_depth = need_depth
        super().__init__(str(self.path), units_per_metre=units_per_metre, distance=distance, skip_bad=skip_bad)
        good: list[DepthPair[int]] = []
        bad: list[tuple[int, str]] = []
        for line, text in enumerate(_lines(self.path), start=1):
            words = words_of(text, self._is_file)
            if words:
                try:
                    good.append(self._pair(line, words))
                except DataError as error:
                    bad.append((line, str(error)))
        self._take(good, bad)

    def _pair(self, line: int, words: list[str]) -> DepthPair[int]:
        where = f"{self.path.name}:{line}"
        if len(words) not in ((2, 3) if self.need_depth else (1, 2, 3)):
            said = f"expected `rgb depth [focal]`, got {len(words)} words: {' '.join(words)}{self._hint(words)}"
            raise DataError(f"{where}: {said}")
        named = words[1] if len(words) > 1 and words[1] != "None" else None
        if named is None and self.need_depth:
            raise DataError(f"{where}: {words[0]} has no ground truth (depth is None); leave it out of the list")
        rgb, depth = self._found(words[0]), None if named is None else self._found(named)
        absent = [path for path in (rgb, depth) if path is not None and not os.path.isfile(path)]
        if absent:
            raise DataError(
                f"{where}: no such file {absent[0]}; check it, or the folder given as root{self._hint(words)}"
            )
        lens = None
        if len(words) == 3:
            focal_px = float(words[2]) if _is_number(words[2]) else math.nan
            if not (math.isfinite(focal_px) and focal_px > 0):
                raise DataError(f"{where}: expected a positive focal length in pixels as third word, got {words[2]!r}")
            lens = Lens(focal_px, focal_px)
        pair = DepthPair(rgb, depth, f"{where} {words[0]}", where, label=line, lens=lens)
        return self._checked(pair, "give the focal length as third word of the line")

    def _found(self, word: str) -> Path:
        if os.path.isabs(word) and os.path.isfile(word):
            return Path(word)
        return existing(self.root / word.lstrip("/"))

    def _is_file(self, word: str) -> bool:
        return os.path.isfile(self._found(word))

    def _hint(self, words: Sequence[str]) -> str:
        """The end of a message about words that look like parts of names, or that another program's habits shaped."""
        names = joined_names(words, self._is_file)
        if names is not None:
            return f". There is a space in a name: quote it, as {' '.join(names)}"
        if len(words) > 3 or (len(words) == 3 and not _is_number(words[2])):
            return '. If there is a space in a name, quote it: "my photo.png" "my depth.png" 518.8'
        if any("," in word or ";" in word for word in words):
            return ". Names are separated by white space, not by commas"
        return ". Folders are separated by /" if any("\\" in word for word in words) else ""


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
        # Not splitlines, which also ends a line at characters that names of files may hold, such as U+2028.
        return _LINE_END.split(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: {expected} in UTF-8, but {error}; save it as UTF-8, if it is a list") from error


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
