"""RGB-D pairs from LeRobot data sets (lerobot 0.6 or newer, in which cameras may have depth)."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from typing_extensions import Self

from spaceclip_plugin._checks import choice, text, whole
from spaceclip_plugin._files import read_json_object
from spaceclip_plugin.bridges.lerobot.format import (
    DEPTH_SUFFIX,
    DepthFeature,
    LeRobotFrames,
    camera_key,
    check_measured,
    has_depth,
    rgb,
)
from spaceclip_plugin.data import DepthSample, SelectiveSource
from spaceclip_plugin.data.files.pairs import AXIS, RAY, checked_distance, sizes_agree
from spaceclip_plugin.data.sources.episodes import numbers_of, split_episodes
from spaceclip_plugin.data.sources.spec import PathSpec, absolute, checked_path, last_name
from spaceclip_plugin.errors import CheckpointError, ConfigError, DataError

MEASURED, PREDICTED = "measured", "predicted"
"""What depth may be: a camera's, or, where that is said, a head's (`spaceclip annotate`)."""

_MAX_STRIDE = 10**9
_KEPT_PER_SECOND = 2
_INSTALL = 'pip install "lerobot[dataset]>=0.6"'

# What opening or reading damaged data through lerobot and Arrow ends in, and what two packages below it add to that.
_UNREADABLE = (OSError, ValueError, TypeError, RuntimeError, LookupError, EOFError, AssertionError)
_UNREADABLE_TOO = (("datasets.exceptions", "DatasetsError"), ("av.error", "FFmpegError"))


@dataclass(frozen=True)
class LeRobotData(PathSpec):
    """A LeRobot data set as a config or a command line names it; see `LeRobotDepth`.

    Attributes:
        path: a local folder (with `meta/info.json`), or the id of a data set on the Hub.
        camera: whose depth; None is the only one that has any.
        stride: every how many frames one is taken. None: each of them; a training run takes about two a second.
        episodes: numbers and ranges with both ends, such as "0-39,45"; None is all of them.
        distance: what depth is measured along. Only "axis", the optical axis: a LeRobot data set keeps no intrinsics,
            by which "ray" could be converted.
        depth: "measured"; "predicted" also takes what `spaceclip annotate` wrote, which is a head's opinion.

    Raises:
        ConfigError: a value that cannot be.

    Example:
        >>> LeRobotData("lab/kitchen", camera="front", episodes="0-39,45").title
        'lab/kitchen'
    """

    kind: ClassVar[str] = "lerobot"
    path: str
    camera: str | None = None
    stride: int | None = None
    episodes: str | None = None
    distance: str = AXIS
    depth: str = MEASURED

    def __post_init__(self) -> None:
        if checked_distance(self.distance) == RAY:
            raise ConfigError(
                f"distance {RAY!r} is converted by the camera's intrinsics, which a LeRobot data set does not keep; "
                f"convert the depth to {AXIS!r} when it is recorded, or export a folder with intrinsics.json"
            )
        checked_path("path of a LeRobot data set", self.path)
        if self.camera is not None:
            text("camera", self.camera)
        if self.stride is not None:
            whole("stride", self.stride, 1, _MAX_STRIDE)
        choice("depth", self.depth, (MEASURED, PREDICTED))
        if isinstance(self.episodes, int) and not isinstance(self.episodes, bool):
            object.__setattr__(self, "episodes", str(self.episodes))  # a lone episode is a number in YAML
        numbers_of(self.episodes)

    @property
    def title(self) -> str:
        """The id on the Hub, or the folder's own name."""
        return self.path if _is_id(self.path) else super().title

    def resolved(self, base: Path) -> Self:
        """With `path` made absolute, starting from `base`, unless it is an id and no folder."""
        if _is_id(self.path) and not os.path.isdir(absolute(self.path, base)):
            return self
        return dataclasses.replace(self, path=absolute(self.path, base))

    def recorded(self) -> bool:
        """It is."""
        return True

    def tells_depth(self) -> bool:
        """Whether the camera has depth.

        Raises:
            DataError: there is no such camera, or see `open`.
        """
        dataset = opened(self.path, numbers_of(self.episodes))
        return has_depth(dataset, camera_key(dataset, self.camera, need_depth=False))

    def thinned(self) -> Self:
        """With the stride that leaves about two frames a second, unless it has one.

        Raises:
            DataError: see `open`.
        """
        if self.stride is not None:
            return self
        frames_per_second = float(opened(self.path, numbers_of(self.episodes)).fps)
        return dataclasses.replace(self, stride=max(1, round(frames_per_second / _KEPT_PER_SECOND)))

    def split(self, share: float) -> tuple[Self, Self]:
        """In two by episodes; those of the second part, spread evenly over the recording, are about this share.

        Raises:
            DataError: there is one episode only, or see `open`.
        """
        dataset = opened(self.path, numbers_of(self.episodes))
        numbers = numbers_of(self.episodes) or list(range(dataset.meta.total_episodes))
        learnt, judged = (
            dataclasses.replace(self, episodes=part) for part in split_episodes(numbers, share, where=self.path)
        )
        return learnt, judged

    def open(self, *, units_per_metre: float, skip_bad: bool = False) -> LeRobotDepth:
        """The frames; LeRobot knows their unit, `units_per_metre` says nothing here.

        Raises:
            DataError: lerobot is missing or too old, there is no such data set or episode, a head predicted its depth
                and nothing says that this is wanted, or see `LeRobotDepth`.
        """
        return self._opened(need_depth=True, skip_bad=skip_bad)

    def open_photos(self, *, units_per_metre: float, skip_bad: bool = False) -> LeRobotDepth:
        """The frames of a camera with or without depth; see `open`."""
        return self._opened(need_depth=False, skip_bad=skip_bad)

    def _opened(self, *, need_depth: bool, skip_bad: bool) -> LeRobotDepth:
        dataset = opened(self.path, numbers_of(self.episodes))
        return LeRobotDepth(
            dataset,
            camera=self.camera,
            stride=self.stride or 1,
            need_depth=need_depth,
            skip_bad=skip_bad,
            depth=self.depth,
        )


class LeRobotDepth(SelectiveSource[int, str]):
    """A `DepthSource` over the frames of an opened `LeRobotDataset`.

    NaN, infinity, what is not positive, the two ends of the range of a depth video, and 65535 millimetres, the
    saturated value of depth kept as 16-bit images, are unknown depth: 0. Depth is along the optical axis.

    Photo and depth must be registered to one another, of one size or scaled alike in both sides. LeRobot keeps
    what a camera delivers and does not register one to the other (nor does its RealSense camera, as of 0.6.1): that is
    up to whoever records.

    Attributes:
        dataset, stride: as given.
        camera: the key of its photos.
        skipped: ("frame" and its index in the data set, reason) of every frame dropped because of `skip_bad`.

    Example:
        >>> from lerobot.datasets.lerobot_dataset import LeRobotDataset  # doctest: +SKIP
        >>> source = LeRobotDepth(LeRobotDataset("lab/kitchen"), camera="front", stride=10)  # doctest: +SKIP
        >>> source[0].depth_m.dtype  # doctest: +SKIP
        dtype('float32')
    """

    _noun = "frames"
    _expected = "frames with a photo and depth"

    def __init__(
        self,
        dataset: LeRobotFrames,
        *,
        camera: str | None = None,
        stride: int = 1,
        need_depth: bool = True,
        skip_bad: bool = False,
        depth: str = MEASURED,
    ) -> None:
        """Find the camera; no frame is read.

        Args:
            dataset: opened without `delta_timestamps` and `image_transforms`, in either depth unit.
            camera: "front" or "observation.images.front"; None is the only one with depth.
            stride: every how many frames one is taken.
            need_depth: whether a camera, or a frame, without depth is an error. Otherwise its depth is unknown
                throughout: a teacher may give it.
            skip_bad: whether `validated` drops frames that cannot be used instead of raising.
            depth: "measured", or "predicted" where a head's opinion will do, too.

        Raises:
            ConfigError: a stride below 1, or another kind of depth.
            DataError: not one camera with depth, none of that name, depth that a head predicted where measured depth is
                expected, no known unit, or no frame.
        """
        self.stride = whole("stride", stride, 1, _MAX_STRIDE)
        self.dataset = dataset
        self.place = dataset.repo_id
        self.skip_bad = skip_bad
        self.need_depth = need_depth
        self.camera = camera_key(dataset, camera, need_depth=need_depth)
        key, known = self.camera + DEPTH_SUFFIX, need_depth or has_depth(dataset, self.camera)
        if choice("depth", depth, (MEASURED, PREDICTED)) == MEASURED and known:
            check_measured(dataset, key)
        self._depth = DepthFeature.of(dataset, key) if known else None
        self._keep(range(0, len(dataset), stride), [])

    def _label(self, entry: int) -> str:
        return f"frame {entry:06d}"

    def _read(self, entry: int) -> DepthSample:
        try:
            item = self.dataset[entry]
        except unreadable() as error:
            raise DataError(
                f"{self.place}: cannot read {self._label(entry)} ({error}); record or download it again"
            ) from error
        clip = f"episode {int(item['episode_index'])}"
        where = f"{self.place} {clip} frame {int(item['frame_index'])} {self.camera}"
        image = rgb(item, self.camera, where)
        if self._depth is None:
            return DepthSample(image, np.zeros(image.shape[:2], np.float32), where, clip=clip)
        depth_m = self._depth.metres(item, where)
        height, width = depth_m.shape
        if not sizes_agree((height, width), (image.shape[0], image.shape[1])):
            raise DataError(
                f"{where}: depth is {height}x{width} (HxW) but the photo is {image.shape[0]}x{image.shape[1]}; "
                "the two must be registered to one another: of one size, or scaled alike in both sides"
            )
        if self.need_depth and not depth_m.any():
            raise DataError(f"{where}: no pixel of known depth; leave this frame out")
        return DepthSample(image, depth_m, where, clip=clip)


def _is_id(path: str) -> bool:
    """Whether a path is that of a data set on the Hub: OWNER/NAME, and no folder."""
    return re.fullmatch(r"[A-Za-z0-9_][\w.-]*/[A-Za-z0-9_][\w.-]*", path) is not None and not os.path.isdir(path)


def unreadable() -> tuple[type[Exception], ...]:
    """Errors of damaged data, those of packages that are loaded by now included; none is imported for it."""
    loaded = [(sys.modules.get(module), name) for module, name in _UNREADABLE_TOO]
    return (*_UNREADABLE, *(getattr(module, name) for module, name in loaded if module is not None))


def opened(path: str, episodes: list[int] | None) -> LeRobotFrames:
    """The data set, with depth in metres."""
    local = os.path.isdir(path)
    if local:
        _check_folder(path, episodes)
    elif not _is_id(path):
        raise DataError(f"{path}: no such folder, and not the id of a data set on the Hub, such as lerobot/pusht")
    try:
        reader = importlib.import_module("lerobot.datasets.lerobot_dataset").LeRobotDataset
    except ImportError as error:
        raise DataError(f"{path}: reading LeRobot data sets needs lerobot: {_INSTALL} ({error})") from error
    if "depth_output_unit" not in inspect.signature(reader).parameters:
        raise DataError(f"{path}: the installed lerobot is too old to read depth: {_INSTALL}")
    # Where files are missing lerobot looks for them on the Hub; a name that can be no id there keeps it from that.
    name, root = (f"{last_name(path)} (local)", path) if local else (path, None)
    try:
        # Eight bits: photos of a video would otherwise be made floats and back. Images always come as floats.
        dataset = reader(name, root=root, episodes=episodes, depth_output_unit="m", return_uint8=True)
        total = dataset.meta.total_episodes
    except unreadable() as error:
        why = "files are missing or damaged" if local else "it is not on the Hub, or cannot be read; nor is it a folder"
        raise DataError(f"{path}: cannot be opened as a LeRobot data set, {why} ({error})") from error
    _check_episodes(path, episodes, total)
    return dataset


def _check_folder(path: str, episodes: list[int] | None) -> None:
    """That there is a data set, with these episodes: lerobot would look for whatever is absent on the Hub."""
    info = os.path.join(path, "meta", "info.json")
    if not os.path.isfile(info):
        raise DataError(f"{path}: expected a LeRobot data set, but there is no meta/info.json; check the folder")
    try:
        total = read_json_object(info).get("total_episodes")
    except CheckpointError as error:
        raise DataError(f"{path}: cannot be opened as a LeRobot data set: {error}") from error
    _check_episodes(path, episodes, total)


def _check_episodes(path: str, episodes: list[int] | None, total: object) -> None:
    if episodes is not None and isinstance(total, int) and episodes[-1] >= total:
        raise DataError(f"{path}: there is no episode {episodes[-1]}; expected numbers from 0 to {total - 1}")
