"""Photos from where they have always been, with the depth that a teacher gave: `taught:DIR`."""

from __future__ import annotations

import bisect
import dataclasses
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from typing_extensions import Self

from spaceclip_plugin._checks import whole
from spaceclip_plugin._digest import sha256_of
from spaceclip_plugin.data import DepthSample, DepthSource
from spaceclip_plugin.data.sample import fingerprint, photo_of
from spaceclip_plugin.data.sources.episodes import in_ranges, numbers_of, split_episodes
from spaceclip_plugin.data.sources.spec import PathSpec, absolute, checked_path, is_recording, open_photos
from spaceclip_plugin.errors import ConfigError, DataError, TrainingError
from spaceclip_plugin.teaching.keeping import read_mask
from spaceclip_plugin.teaching.record import TaughtRecord, episode_of
from spaceclip_plugin.teaching.shards import TaughtPhoto, TaughtShard
from spaceclip_plugin.teaching.views import photo_intrinsics
from spaceclip_plugin.training.data_camera import TellsCamera

MASK_NAME = "mask.png"
_OPEN_SHARDS = 64
_MAX_STRIDE = 10**9


@dataclass(frozen=True)
class TaughtData(PathSpec):
    """A folder of `spaceclip teach` as a config or a command line names it; see `TaughtDepth`.

    What was taught of recordings counts as recordings: it is thinned, and split by episodes, as these are.

    Attributes:
        path: the folder.
        stride: every how many of the photos that were taught one is taken. None: each of them; a training run takes
            about two a second of what was recorded.
        episodes: of recordings, numbers and ranges with both ends, such as "0-39,45"; None is all of them.

    Raises:
        ConfigError: a value that cannot be.

    Example:
        >>> TaughtData("runs/taught/kitchen").title
        'kitchen'
    """

    kind: ClassVar[str] = "taught"
    path: str
    stride: int | None = None
    episodes: str | None = None

    def __post_init__(self) -> None:
        checked_path("path of taught depth", self.path)
        if self.stride is not None:
            whole("stride", self.stride, 1, _MAX_STRIDE)
        if isinstance(self.episodes, int) and not isinstance(self.episodes, bool):
            object.__setattr__(self, "episodes", str(self.episodes))  # a lone episode is a number in YAML
        numbers_of(self.episodes)

    def resolved(self, base: Path) -> Self:
        """With `path` made absolute, starting from `base`."""
        return dataclasses.replace(self, path=absolute(self.path, base))

    @property
    def camera(self) -> str | None:
        """Of the recordings that were taught; None: the only camera's, or they are none."""
        taught = self._record.photos
        return taught.camera if is_recording(taught) else None

    def recorded(self) -> bool:
        """Whether the photos are of recordings, in numbered episodes.

        Raises:
            DataError: see `open`.
        """
        record = self._record
        return is_recording(record.photos) and bool(record.episodes)

    def tells_depth(self) -> bool:
        """A teacher gave it."""
        return True

    def thinned(self) -> Self:
        """With the stride that leaves about two of the recorded frames a second, unless it has one.

        Raises:
            DataError: see `open`, or the recordings cannot be opened.
        """
        taught = self._record.photos
        if self.stride is not None or not is_recording(taught):
            return self
        wanted = dataclasses.replace(taught, stride=None).thinned().stride or 1
        return dataclasses.replace(self, stride=max(1, round(wanted / (taught.stride or 1))))

    def split(self, share: float) -> tuple[Self, Self]:
        """In two by episodes, as the recordings themselves are split.

        Raises:
            DataError: there is one episode only, or see `open`.
        """
        numbers = numbers_of(self.episodes) or self._record.episodes
        learnt, judged = split_episodes(numbers, share, where=self.path)
        return dataclasses.replace(self, episodes=learnt), dataclasses.replace(self, episodes=judged)

    def open(self, *, units_per_metre: float, skip_bad: bool = False) -> TaughtDepth:
        """The photos with their taught depth, which is in metres; those that were left out then are left out now.

        Raises:
            DataError: there is none, it is not complete or damaged, its photos are not where they were, or there are
                none of these episodes.
        """
        return TaughtDepth(Path(self.path), stride=self.stride or 1, episodes=numbers_of(self.episodes))

    @property
    def _record(self) -> TaughtRecord:
        return TaughtRecord.read(Path(self.path))


class TaughtDepth:
    """A `DepthSource` over photos whose depth a teacher gave.

    Names, photos and intrinsics are those of the photos' own source. The depth has the photo's size: the teacher's, by
    its clip's scale, and 0 where it is doubtful, masked or out of range.

    Attributes:
        place: the folder.
        record: who taught, and what it is worth.

    Example:
        >>> import numpy as np
        >>> from pathlib import Path
        >>> from PIL import Image
        >>> from spaceclip_plugin.data import parse_source
        >>> class Wall:
        ...     card = TeacherCard("wall:1", "metres", "of no weights", lens="takes none")
        ...     def depth(self, photos, intrinsics):
        ...         return np.ones(photos.shape[:3], np.float32)
        >>> Path("photos").mkdir()
        >>> Image.new("RGB", (6, 4)).save("photos/wall.png")
        >>> photos, quiet = parse_source("folder:photos"), TeachOptions(progress=False)
        >>> _ = teach(photos, Wall(), Path("walls"), options=quiet)
        >>> TaughtDepth(Path("walls"))[0].depth_m.shape
        (4, 6)
    """

    def __init__(self, folder: Path, *, stride: int = 1, episodes: Sequence[int] | None = None) -> None:
        """Open the photos' source and the record; shards are read where episodes are asked for.

        Args:
            folder: of `teach`.
            stride: every how many photos one is taken.
            episodes: their numbers; None: all photos, of episodes or none.

        Raises:
            DataError: see `TaughtData.open`.
        """
        self.place = str(folder)
        self.record = TaughtRecord.read(folder)
        self._source = self._photos(folder)
        self._scales = {clip.clip: clip for clip in self.record.clips}
        self._mask = None
        if self.record.mask is not None:
            self._mask, digest = read_mask(folder / MASK_NAME)
            if digest != self.record.mask:
                raise DataError(f"{folder / MASK_NAME} is not the mask that was given; teach again with the right one")
        self._starts = [int(shard["start"]) for shard in self.record.shards]
        self._open: OrderedDict[int, TaughtShard] = OrderedDict()
        chosen = range(self.record.images) if episodes is None else self._of_episodes(set(episodes))
        left_out = set(self.record.left_out)
        self._indices = [index for index in chosen[::stride] if index not in left_out]
        if not self._indices:
            raise DataError(f"{folder}: of these photos none has taught depth; take more episodes, or a lower stride")

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> DepthSample:
        """One photo with its taught depth; DataError where the photo is not the one that was taught."""
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        number = self._indices[index]
        photo, sample = self._photo(number), self._source[number]
        if sample.name != photo.name or sample.image.shape[:2] != photo.depth.shape:
            raise DataError(
                f"{self.place}: photo {number} was {photo.name}, {_sized(photo.depth.shape)}, and is {sample.name}, "
                f"{_sized(sample.image.shape)}: the data has changed since. Teach it anew, in another folder"
            )
        keeping, scale = self.record.keeping, self._scales[photo.clip]
        kept = keeping.pixels(photo, self._mask)
        metres = scale.metres(photo.depth, metric=self.record.teacher.metric)
        depth_m = np.where(kept & keeping.within(metres), metres, np.float32(0)).astype(np.float32)
        if not depth_m.any():
            raise DataError(f"{photo.name}: nothing of the teacher's depth is kept; leave this photo out")
        return dataclasses.replace(sample, depth_m=depth_m, intrinsics=photo_intrinsics(sample))

    def fingerprint(self, index: int) -> str:
        """That of the photo, and of all that its depth depends on; DataError where the photo is another one now."""
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        number = self._indices[index]
        photo = self._photo(number)
        found = fingerprint(self._source, number)
        if found != photo.fingerprint:
            raise DataError(
                f"{self.place}: {photo.name} has changed since it was taught; teach the data anew, in another folder"
            )
        scale = self._scales[photo.clip]
        meaning = (self.record.key, number, self.record.keeping, self.record.mask, scale.scale, scale.shift)
        return photo_of(found) + sha256_of(repr(meaning))

    def tells_camera(self, index: int) -> bool | None:
        """Whether a photo has intrinsics; None where its source does not tell without reading it."""
        source = self._source
        return source.tells_camera(self._indices[index]) if isinstance(source, TellsCamera) else None

    @property
    def teachers(self) -> list[dict[str, Any]]:
        """Everyone who taught, with their terms, for records."""
        return self.record.cards

    def _photos(self, folder: Path) -> DepthSource:
        """The source of the photos."""
        reading = self.record.reading
        try:
            source = open_photos(
                self.record.photos, units_per_metre=reading["units_per_metre"], skip_bad=reading["skip_bad"]
            )
        except (ConfigError, DataError, KeyError) as error:
            raise DataError(
                f"{folder}: the photos that were taught cannot be opened: {error}. If they lie elsewhere now, correct "
                "`source` in teacher.json"
            ) from error
        if len(source) != self.record.images:
            raise DataError(
                f"{folder}: {self.record.images} photos were taught, and now there are {len(source)}: the data has "
                "changed since. Teach it anew, in another folder"
            )
        return source

    def _of_episodes(self, wanted: set[int]) -> list[int]:
        """The photos of these episodes, by number."""
        numbers = [episode_of(clip) for at in range(len(self._starts)) for clip in self._shard(at).clips]
        if unknown := wanted - set(numbers):
            raise DataError(
                f"{self.place}: of episode {min(unknown)} nothing was taught; there are "
                f"{in_ranges(sorted({number for number in numbers if number is not None})) or 'no episodes'}"
            )
        return [index for index, number in enumerate(numbers) if number in wanted]

    def _photo(self, number: int) -> TaughtPhoto:
        """What was kept of photo `number` of the source."""
        at = bisect.bisect_right(self._starts, number) - 1
        shard = self._shard(at)
        try:
            return shard.photo(number - shard.start)
        except (TrainingError, IndexError) as error:
            raise DataError(f"{self.place}: {error}") from error

    def _shard(self, at: int) -> TaughtShard:
        """A file of the folder, opened."""
        shard = self._open.pop(at, None)
        if shard is None:
            told = self.record.shards[at]
            try:
                shard = TaughtShard(Path(self.place) / told["file"], key=self.record.key)
                if shard.sha256 != told["sha256"] or shard.start != self._starts[at]:
                    raise TrainingError(f"{told['file']} is not the file that was written; teach again")
            except TrainingError as error:
                raise DataError(f"{self.place}: {error}") from error
            while len(self._open) >= _OPEN_SHARDS:
                self._open.popitem(last=False)
        self._open[at] = shard  # the newest is last
        return shard

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_open": OrderedDict()}  # a worker opens files of its own


def _sized(shape: tuple[int, ...]) -> str:
    return f"{shape[0]}x{shape[1]} (HxW)"
