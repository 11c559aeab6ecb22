"""RGB-D pairs named by a text file in the published NYU and KITTI format, one `rgb depth [focal]` per line."""

from __future__ import annotations

import copy
import logging
import math
import os.path
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from tqdm import tqdm

from spaceclip_plugin.camera import Intrinsics
from spaceclip_plugin.data.image_files import read_depth_png, read_rgb
from spaceclip_plugin.data.sample import DepthSample
from spaceclip_plugin.errors import ConfigError, DataError

_log = logging.getLogger(__name__)
_SHOWN = 5

SampleCheck = Callable[[DepthSample], None]


@dataclass(frozen=True)
class _Entry:
    """One usable line: where its files are, and what to call it."""

    line: int
    rgb: Path
    depth: Path
    focal_px: float | None
    name: str


class DepthList:
    """A `DepthSource` over the pairs of a list file.

    Lines are `rgb depth [focal]`, separated by white space. Blank lines, and whatever follows a word that starts with
    `#`, are ignored. Paths are relative to `root`; a leading slash is too, as the NYU lists are written, unless that
    absolute file exists. A depth of `None`, as in the KITTI Eigen list, means no ground truth and makes a bad line.
    A focal length (pixels of that image) gives square pixels and a centred principal point.

    Construction parses every line and looks whether its files exist; it opens none of them. Their content is read by
    indexing, and checked as a whole by `check` or `validated`.

    Attributes:
        path, root, units_per_metre, skip_bad: as given; `root` is the list's own folder where none was.
        skipped: (line number, reason) of every line dropped because of `skip_bad`, in order of the file.
    """

    skipped: tuple[tuple[int, str], ...]

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
        if not (math.isfinite(units_per_metre) and units_per_metre > 0):
            raise ConfigError(f"units_per_metre must be finite and positive, got {units_per_metre}")
        self.path = Path(path)
        self.root = Path(root) if root is not None else self.path.parent
        self.units_per_metre = units_per_metre
        self.skip_bad = skip_bad
        self.skipped = ()
        self._entries: tuple[_Entry, ...] = ()
        good: list[_Entry] = []
        bad: list[tuple[int, str]] = []
        for line, text in enumerate(_lines(self.path), start=1):
            words = _words(text)
            if not words:
                continue
            try:
                good.append(self._parse(line, words))
            except DataError as error:
                bad.append((line, str(error)))
        self._keep(good, bad)

    def __len__(self) -> int:
        """Number of usable lines."""
        return len(self._entries)

    def __getitem__(self, index: int) -> DepthSample:
        """Reads one pair.

        Raises:
            IndexError: no such sample.
            DataError: a file cannot be decoded, sizes differ, or no depth is known. Names list, line and file.
        """
        return self._read(self._entries[index])

    def check(self, usable: SampleCheck | None = None) -> Iterator[tuple[int, str | None]]:
        """Reads every pair, one per step: (line number, reason it cannot be used or None).

        Args:
            usable: raises DataError for a sample that is whole but of no use, such as `Protocol.check`.
        """
        for entry in self._entries:
            try:
                sample = self._read(entry)
                if usable is not None:
                    usable(sample)
            except DataError as error:
                yield entry.line, str(error)
            else:
                yield entry.line, None

    def validated(self, usable: SampleCheck | None = None) -> DepthList:
        """This list once every file has been read: what it still holds can be read.

        Reads the whole data set once, with a progress bar on a terminal, so that a run of days does not stop at a
        file that was broken from the start. With `skip_bad` the returned list lacks the unreadable pairs, names them
        in its `skipped` and logs a warning; this list is left as it is.

        Args:
            usable: a further condition, see `check`.

        Raises:
            DataError: pairs cannot be read (without `skip_bad`), or none can.
        """
        verdicts = dict(tqdm(self.check(usable), desc=self.path.name, total=len(self), leave=False, disable=None))
        readable = copy.copy(self)
        readable._keep(
            [entry for entry in self._entries if verdicts[entry.line] is None],
            [(line, reason) for line, reason in verdicts.items() if reason is not None],
        )
        return readable

    def _keep(self, good: list[_Entry], bad: list[tuple[int, str]]) -> None:
        """Takes over what is usable; bad lines are an error or, with `skip_bad`, a record and a warning."""
        count = f"{len(bad)} of {len(good) + len(bad)} lines cannot be used"
        reasons = "".join(f"\n  {reason}" for _, reason in bad[:_SHOWN])
        reasons += f"\n  … and {len(bad) - _SHOWN} more" if len(bad) > _SHOWN else ""
        if bad and not self.skip_bad:
            raise DataError(f"{self.path}: {count}; repair them, or drop them with skip_bad=True:{reasons}")
        if not good:
            raise DataError(f"{self.path}: expected lines `rgb depth [focal]`, but there is no usable one{reasons}")
        if bad:
            _log.warning("%s: %s and are skipped:%s", self.path, count, reasons)
        self._entries = tuple(good)
        self.skipped = tuple(sorted((*self.skipped, *bad)))

    def _parse(self, line: int, words: list[str]) -> _Entry:
        where = f"{self.path.name}:{line}"
        if len(words) not in (2, 3):
            raise DataError(f"{where}: expected `rgb depth [focal]`, got {len(words)} words: {' '.join(words)}")
        if words[1] == "None":
            raise DataError(f"{where}: {words[0]} has no ground truth (depth is None); leave it out of the list")
        focal_px = _focal(words[2], where) if len(words) == 3 else None
        rgb, depth = self._locate(words[0]), self._locate(words[1])
        for file in (rgb, depth):
            if not os.path.isfile(file):
                raise DataError(f"{where}: no such file {file}; check it, or the folder given as root")
        return _Entry(line, rgb, depth, focal_px, f"{where} {words[0]}")

    def _locate(self, word: str) -> Path:
        if os.path.isabs(word) and os.path.isfile(word):
            return Path(word)
        return self.root / word.lstrip("/")

    def _read(self, entry: _Entry) -> DepthSample:
        where = f"{self.path.name}:{entry.line}"
        try:
            image = read_rgb(entry.rgb)
            depth_m = read_depth_png(entry.depth, units_per_metre=self.units_per_metre)
        except DataError as error:
            raise DataError(f"{where}: {error}") from error
        height, width = depth_m.shape
        if image.shape[:2] != (height, width):
            raise DataError(
                f"{where}: {entry.depth} is {height}x{width} (HxW) but {entry.rgb} is "
                f"{image.shape[0]}x{image.shape[1]}; a pair must be registered to one size"
            )
        if not depth_m.any():
            raise DataError(f"{where}: {entry.depth} has no pixel of known depth (all zero); leave it out of the list")
        camera = None
        if entry.focal_px is not None:
            camera = Intrinsics(entry.focal_px, entry.focal_px, width / 2, height / 2, (height, width))
        return DepthSample(image, depth_m, entry.name, camera)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: expected a text file of lines `rgb depth [focal]`, but {error}") from error


def _words(text: str) -> list[str]:
    words = text.split()
    comment = next((i for i, word in enumerate(words) if word.startswith("#")), len(words))
    return words[:comment]


def _focal(word: str, where: str) -> float:
    try:
        focal_px = float(word)
    except ValueError:
        focal_px = math.nan
    if not (math.isfinite(focal_px) and focal_px > 0):
        raise DataError(f"{where}: expected a positive focal length in pixels as third word, got {word!r}")
    return focal_px
