"""The photos of one camera of a LeRobot data set, episode by episode; the data set itself is only read."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from spaceclip_plugin.bridges.lerobot.annotation.channels import IMAGE
from spaceclip_plugin.bridges.lerobot.dataset import LeRobotData, opened, unreadable
from spaceclip_plugin.bridges.lerobot.format import DEPTH_SUFFIX, PREFIX, rgb
from spaceclip_plugin.errors import ConfigError, DataError, nearest

_META = "meta"


class Recording:
    """A data set and the camera whose photos are to get depth.

    Attributes:
        dataset: as LeRobot opened it; of its cameras, only this one is decoded.
        root: its folder.
        camera: the key of the photos.
        image_hw, dtype: their size, (H, W) pixels, and how they are stored, "image" or "video".
        features: of the data set.
        lengths: frames of every episode.
    """

    def __init__(self, data: LeRobotData, *, camera: str | None = None) -> None:
        """Open it.

        Raises:
            ConfigError: only some episodes or frames are named: an enriched data set has them all.
            DataError: see `LeRobotData.open`; no camera of that name, several where none is named, or one that has
                depth already.
        """
        if data.episodes is not None or data.stride not in (None, 1):
            raise ConfigError("a data set is enriched as a whole: leave out episodes and stride")
        self.dataset = opened(data.path, None)
        self.place: str = self.dataset.repo_id
        self.root = Path(self.dataset.root)
        features = self.features = dict(self.dataset.features)
        self.camera = _camera(self.place, features, camera or data.camera)
        feature = features[self.camera]
        sides = dict(zip(feature.get("names") or ("height", "width", "channels"), feature["shape"], strict=False))
        if not {"height", "width"} <= set(sides):
            raise DataError(f"{self.place}: {self.camera} does not say which of its sides is its height: {feature}")
        self.image_hw = (int(sides["height"]), int(sides["width"]))
        self.dtype: str = feature["dtype"]
        self.fps: int = self.dataset.fps
        self._starts = [int(episode["dataset_from_index"]) for episode in self.dataset.meta.episodes]
        self.lengths = [int(episode["length"]) for episode in self.dataset.meta.episodes]
        self._decode_one_camera()

    def digest(self) -> str:
        """SHA-256 (hex) over the names and sizes of all files, and over what the metadata hold."""
        total = hashlib.sha256()
        for path in files_of(self.root):
            name = path.relative_to(self.root).as_posix()
            total.update(f"{name}\0{path.stat().st_size}\0".encode())
            if name.startswith(f"{_META}/"):
                total.update(path.read_bytes())
        return total.hexdigest()

    def batches(self, episode: int, *, size: int) -> Iterator[list[npt.NDArray[np.uint8]]]:
        """The photos of an episode, (H, W, 3) uint8 RGB, so many at a time.

        Raises:
            DataError: a frame cannot be read, is of another episode, or of another size than the features say.
        """
        batch = []
        for frame in range(self.lengths[episode]):
            batch.append(self._photo(episode, frame))
            if len(batch) == size:
                yield batch
                batch = []
        if batch:
            yield batch

    def _photo(self, episode: int, frame: int) -> npt.NDArray[np.uint8]:
        where = f"{self.place} episode {episode} frame {frame} {self.camera}"
        try:
            item = self.dataset[self._starts[episode] + frame]
        except unreadable() as error:
            raise DataError(f"cannot read {where} ({error}); record or download it again") from error
        if (int(item["episode_index"]), int(item["frame_index"])) != (episode, frame):
            raise DataError(f"{where} is stored as that of another place; the metadata do not belong to the data")
        photo = rgb(item, self.camera, where)
        if photo.shape[:2] != self.image_hw:
            raise DataError(
                f"{where} is {photo.shape[0]}x{photo.shape[1]} (HxW), the data set's features say "
                f"{self.image_hw[0]}x{self.image_hw[1]}: one feature has frames of one size; bring them to one first"
            )
        return photo

    def _decode_one_camera(self) -> None:
        """Have every other camera left alone: decoding their photos would cost more than all else."""
        for key in [*self.dataset.meta.camera_keys]:
            if key == self.camera:
                continue
            if self.dataset.features[key]["dtype"] == IMAGE:
                frames = self.dataset.hf_dataset
                self.dataset.reader.hf_dataset = frames.remove_columns([key])
            del self.dataset.meta.info.features[key]


def files_of(root: Path) -> list[Path]:
    """The files of a data set, in order; what is hidden (caches, git) and temporary frames are none of them."""
    found = (path for path in root.rglob("*") if path.is_file())
    return sorted(path for path in found if not _is_foreign(path.relative_to(root)))


def _is_foreign(path: Path) -> bool:
    return path.parts[0] == "images" or any(part.startswith(".") for part in path.parts)


def _camera(place: str, features: dict[str, Any], named: str | None) -> str:
    """The key of the photos of the camera of that name, or of the only one."""
    pictures = [key for key, feature in features.items() if feature["dtype"] in ("image", "video")]
    cameras = {key.removeprefix(PREFIX): key for key in pictures if tuple(features[key]["shape"]).count(3)}
    known = ", ".join(cameras)
    if not cameras:
        raise DataError(f"{place}: there is no camera with colour photos; the features are {', '.join(features)}")
    if named is None and len(cameras) > 1:
        raise DataError(f"{place}: there are {len(cameras)} cameras; choose one with --camera: {known}")
    name = next(iter(cameras)) if named is None else named.removeprefix(PREFIX)
    if name not in cameras:
        raise DataError(f"{place}: there is no camera {named!r}{nearest(name, cameras)}; known: {known}")
    if cameras[name] + DEPTH_SUFFIX in features:
        raise DataError(
            f"{place}: camera {name!r} has depth already ({cameras[name]}{DEPTH_SUFFIX}), which is not replaced; "
            "choose another camera, or remove that feature from a copy of the data set first"
        )
    return cameras[name]
