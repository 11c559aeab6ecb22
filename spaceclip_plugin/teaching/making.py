"""Ask a teacher about every photo once and keep what it says, shard by shard: a killed run goes on where it was."""

from __future__ import annotations

import functools
import json
import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spaceclip_plugin._digest import sha256_of
from spaceclip_plugin._files import is_temporary
from spaceclip_plugin.data import DepthSample, DepthSource
from spaceclip_plugin.errors import DataError, TrainingError
from spaceclip_plugin.teaching.evidence import measured_points
from spaceclip_plugin.teaching.shards import TaughtPhoto, TaughtShard, shard_path, write_shard
from spaceclip_plugin.teaching.teacher import DepthTeacher
from spaceclip_plugin.teaching.views import look
from spaceclip_plugin.training.processes import Processes
from spaceclip_plugin.training.reading_ahead import read_ahead

SHARD_BYTES = 64 << 20  # about how large a shard is; as much is held in memory while it is made
_FORMAT = 1
_BYTES_OF_A_PIXEL = 6
_BYTES_OF_POINTS = 4096

_logger = logging.getLogger(__name__)


def teaching_key(teacher: DepthTeacher, second: DepthTeacher | None, fingerprints: Sequence[str]) -> str:
    """SHA-256 (hex) over all that a teacher's depth depends on; its scale and what is kept of it are no part."""
    cards = [None if one is None else (one.card.weights, one.card.gives, one.card.lens) for one in (teacher, second)]
    return sha256_of(json.dumps({"format": _FORMAT, "teachers": cards}), *fingerprints)


@dataclass(eq=False)
class Making:
    """The depth of one source in the making."""

    teacher: DepthTeacher
    second: DepthTeacher | None
    source: DepthSource
    fingerprints: Sequence[str]
    folder: Path
    processes: Processes
    skip_bad: bool  # photos that cannot be read are left out instead of ending all
    photos_per_shard: int = 1

    @property
    def key(self) -> str:
        """What the depth depends on."""
        return teaching_key(self.teacher, self.second, self.fingerprints)

    def prepare(self) -> int:
        """See that the disk has room, and say what it will cost; returns how many photos go into a shard."""
        for left in filter(is_temporary, list(self.folder.iterdir())):  # of a killed process
            left.unlink()
        there = list(self.folder.glob("taught-*.safetensors"))
        size, images = self._bytes_of_a_photo(), len(self.source)
        count = self._photos_per_existing_shard() or max(1, SHARD_BYTES // size)
        done = sum(path.stat().st_size for path in there)
        needed, free = max(0, size * images - done), shutil.disk_usage(self.folder).free
        _logger.info(
            "depth of %d photos by %s: %s on the disk%s", images, self.teacher.card.name, _size(size * images),
            f" ({_size(done)} are there already)" if done else "",
        )  # fmt: skip
        if needed > free:
            raise TrainingError(
                f"depth of {images} photos needs {_size(needed)} in {str(self.folder)!r} and {_size(free)} are free; "
                "free disk space, choose another folder, or take fewer photos (a stride, episodes)"
            )
        return count

    def make_share(self, progress: Callable[[int], object]) -> dict[int, str]:
        """Digests of this process's shards, once they are there and whole."""
        processes, key = self.processes, self.key
        digests: dict[int, str] = {}
        missing: list[int] = []
        for number in range(processes.rank, -(-len(self.source) // self.photos_per_shard), processes.count):
            path = shard_path(self.folder, number)
            if not path.exists():
                missing.append(number)
                continue
            shard = TaughtShard(path, key=key)
            shard.verify()
            shard.check_place(self._range(number))
            digests[number] = shard.sha256
            progress(len(shard))
        read = self._read([index for number in missing for index in self._range(number)])
        for number in missing:
            held = []
            for index in self._range(number):
                held.append(self._taught(index, next(read)))
                progress(1)
            start = self._range(number).start
            digests[number] = write_shard(shard_path(self.folder, number), held, key=key, start=start)
        return digests

    def _taught(self, index: int, sample: DepthSample | None) -> TaughtPhoto:
        """What is kept of one photo; of one that cannot be read, its place."""
        if sample is None:
            nothing = np.zeros((0, 0), np.float32)
            points = np.zeros(0, np.int32), np.zeros(0, np.float32)
            return TaughtPhoto(
                f"photo {index}", "", self.fingerprints[index], nothing, nothing.astype(np.float16), *points
            )
        lesson = look(self.teacher, sample, second=self.second)
        height, width = lesson.depth.shape
        points = measured_points(sample.depth_m, (height, width))
        return TaughtPhoto(sample.name, sample.clip, self.fingerprints[index], lesson.depth, lesson.doubt, *points)

    def _read(self, indices: list[int]) -> Iterator[DepthSample | None]:
        read = functools.partial(_sample_if_readable if self.skip_bad else _sample, self.source)
        return read_ahead(read, indices, workers=self.processes.workers)

    def _bytes_of_a_photo(self) -> int:
        """Of the first that can be read; photos of one source are mostly alike."""
        for index in range(len(self.source)):
            found = _sample_if_readable(self.source, index) if self.skip_bad else self.source[index]
            if found is not None:
                return int(found.image[..., 0].size) * _BYTES_OF_A_PIXEL + _BYTES_OF_POINTS
        raise DataError("none of the photos can be read")

    def _photos_per_existing_shard(self) -> int | None:
        """As the first shard that is there tells; all but the last hold as many photos as the first."""
        for path in sorted(self.folder.glob("taught-*.safetensors")):
            shard = TaughtShard(path, key=self.key)
            number = int(path.stem.removeprefix("taught-"))
            return shard.start // number if number else len(shard)
        return None

    def _range(self, number: int) -> range:
        start = number * self.photos_per_shard
        return range(start, min(start + self.photos_per_shard, len(self.source)))


def _sample(source: DepthSource, index: int) -> DepthSample:
    return source[index]


def _sample_if_readable(source: DepthSource, index: int) -> DepthSample | None:
    try:
        return source[index]
    except DataError as error:
        _logger.warning("%s: left out", error)
        return None


def _size(size: int) -> str:
    """A number of bytes in the unit that shows its digits."""
    unit, scale = next(((unit, scale) for unit, scale in (("GB", 1e9), ("MB", 1e6)) if size >= scale), ("kB", 1e3))
    return f"{size / scale:.2f} {unit}"
