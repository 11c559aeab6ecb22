"""Depth for every photo of a camera of a data set: streamed, in parts that survive a stop, shared by processes."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from spaceclip_plugin import DepthMap, __version__
from spaceclip_plugin._checks import whole
from spaceclip_plugin._digest import module_digest
from spaceclip_plugin.attach import DepthAttachment
from spaceclip_plugin.bridges.lerobot.annotation.channels import UNCERTAINTY, Channel, Storage
from spaceclip_plugin.bridges.lerobot.annotation.episode import write_episode
from spaceclip_plugin.bridges.lerobot.annotation.recording import Recording
from spaceclip_plugin.bridges.lerobot.annotation.work import RECORD_NAME, WorkFolder
from spaceclip_plugin.bridges.lerobot.format import PREFIX
from spaceclip_plugin.depth import Intrinsics
from spaceclip_plugin.depth.camera import lens_scale
from spaceclip_plugin.errors import ConfigError, DataError
from spaceclip_plugin.evaluation import predict
from spaceclip_plugin.training.processes import Processes

_OUTSIDE = 1e-3  # of the depth at an end of the range: what rounding may put it beyond
_MAX_BATCH = 4096


@dataclass(frozen=True)
class AnnotationOptions:
    """What is written, and how it is predicted.

    Attributes:
        dtype: "image" or "video"; None: as the camera's photos are stored.
        unit: of images.
        extras: of `channels.EXTRAS`.
        intrinsics: of the camera's photos, at any size of them; None: depth is in metres of the camera that the head
            assumes.
        flip: average with the prediction of the mirrored photo.
        batch: photos of one run of the tower.
    """

    dtype: str | None = None
    unit: str = "mm"
    extras: tuple[str, ...] = ()
    intrinsics: Intrinsics | None = None
    flip: bool = False
    batch: int = 8

    def __post_init__(self) -> None:
        whole("batch", self.batch, 1, _MAX_BATCH)


@dataclass(frozen=True)
class Annotated:
    """What a run did.

    Attributes:
        episodes, frames: of the data set.
        predicted_frames: in this run, by all processes.
        seconds: of the slowest of them.
        valid: share of the pixels with depth, of the frames of this run; None where there were none.
        beyond: share of those with depth that the head read nearer or farther than its range, and that are stored as
            the end of it, as evaluation scores them; None where there were no frames.
        features: the keys that were added.
        record: as written beside the data.
    """

    episodes: int
    frames: int
    predicted_frames: int
    seconds: float
    valid: float | None
    beyond: float | None
    features: tuple[str, ...]
    record: dict[str, Any]


class Annotation:
    """One data set, one camera, one head on its host, and where the enriched data set goes."""

    def __init__(
        self,
        attachment: DepthAttachment,
        recording: Recording,
        out: Path,
        *,
        options: AnnotationOptions,
        names: dict[str, str],
    ) -> None:
        """Check what can be checked before anything is predicted; nothing is written.

        Args:
            attachment: the head on its host.
            recording: what is read.
            out: the folder of the new data set.
            options: see there.
            names: how "head", "host" and "data" were called, for the record.

        Raises:
            ConfigError: an untrained head, one that gives no uncertainty where that is asked for, or what cannot be
                stored.
        """
        head = attachment.head
        if not head.trained:
            raise ConfigError("the head was not trained: its depth means nothing, and no data set should hold it")
        self._attachment, self._recording, self._options = attachment, recording, options
        self._camera = None if options.intrinsics is None else options.intrinsics.resized(recording.image_hw)
        self._work = WorkFolder(out)
        digest = module_digest(head)
        scale = self._scale()
        near_m, far_m = (scale * metres for metres in head.config.depth_range_m)
        storage = Storage(options.dtype or recording.dtype, options.unit, options.extras, (near_m, far_m))
        self._range_m = (near_m, far_m)
        self._channels: tuple[Channel, ...] = storage.channels(recording.camera, head=digest)
        taken = [channel.key for channel in self._channels if channel.key in recording.features]
        if taken:
            raise DataError(f"{recording.place} has a feature {taken[0]} already, which is not replaced")
        self._record = self._recorded(digest, storage, names)

    def run(self, processes: Processes, *, progress: Callable[[int], object]) -> Annotated:
        """Predict what is missing and join it all; `progress` is told how many frames were done, again and again.

        Raises:
            ConfigError: the output is of another run, or another run is writing it.
            DataError: a frame that cannot be used, or a disk that is full; finished episodes are kept.
        """
        lengths, work = self._recording.lengths, self._work
        opened = work.opened(self._record)
        unfinished = processes.on_main(opened.__enter__)
        start, frames, valid, beyond = time.perf_counter(), 0, 0, 0
        try:
            if unfinished:
                missing = processes.on_main(lambda: work.missing(len(lengths)))
                for frames_done, known, outside in processes.together(
                    lambda: [self._episode(each, progress) for each in missing[processes.rank :: processes.count]]
                ):
                    frames, valid, beyond = frames + frames_done, valid + known, beyond + outside
            seconds = time.perf_counter() - start
            if unfinished:
                processes.on_main(lambda: work.finish(self._recording, self._channels, self._files()))
        finally:
            if processes.main:
                opened.__exit__(None, None, None)
        totals = processes.gathered((frames, valid, beyond, seconds))
        predicted = sum(total[0] for total in totals)
        pixels = predicted * self._recording.image_hw[0] * self._recording.image_hw[1]
        known = sum(total[1] for total in totals)
        return Annotated(
            episodes=len(lengths),
            frames=sum(lengths),
            predicted_frames=predicted,
            seconds=max(total[3] for total in totals),
            valid=known / pixels if pixels else None,
            beyond=sum(total[2] for total in totals) / max(1, known) if pixels else None,
            features=tuple(channel.key for channel in self._channels),
            record=self._record,
        )

    def _episode(self, episode: int, progress: Callable[[int], object]) -> tuple[int, int, int]:
        """Write the depth of an episode; how many frames it has, pixels with depth, and those beyond the range."""
        valid, beyond, (near_m, far_m) = 0, 0, self._range_m

        def predicted() -> Iterator[DepthMap]:
            nonlocal valid, beyond
            for photos in self._recording.batches(episode, size=self._options.batch):
                depth = predict(
                    self._attachment,
                    photos,
                    output_hw=self._recording.image_hw,
                    flip=self._options.flip,
                    intrinsics=self._camera,
                )
                depth_m = depth.depth_m.clamp(near_m, far_m)
                outside = (depth.depth_m - depth_m).abs() > _OUTSIDE * depth_m
                valid, beyond = valid + int(depth.valid.sum()), beyond + int((outside & depth.valid).sum())
                yield dataclasses.replace(depth, depth_m=depth_m)
                progress(len(photos))

        write_episode(self._work.folder(episode), predicted(), self._channels, self._recording)
        return self._recording.lengths[episode], valid, beyond

    def _scale(self) -> float:
        """What the head's metres are multiplied by for this camera, as one prediction tells."""
        image_hw = self._recording.image_hw
        probe = predict(self._attachment, [np.zeros((*image_hw, 3), np.uint8)], output_hw=image_hw)
        if UNCERTAINTY in self._options.extras and probe.uncertainty_m is None:
            raise ConfigError(
                "this head gives no uncertainty; leave it out, or take a head that was trained with uncertainty"
            )
        if self._camera is None or probe.focal_length is None:
            return 1.0
        return lens_scale(self._camera.focal_length, probe.focal_length)

    def _recorded(self, digest: str, storage: Storage, names: dict[str, str]) -> dict[str, Any]:
        config = self._attachment.head.config
        return {
            "format_version": 1,
            "depth": "predicted by a head, not measured: no truth to train or score a depth head on",
            "written_by": {"spaceclip_plugin": __version__, "lerobot": metadata.version("lerobot")},
            "source": {"data": names["data"], "sha256": self._recording.digest()},
            "head": {
                "name": names["head"],
                "sha256": digest,
                "base_model": config.base_model,
                "base_model_revision": config.base_model_revision,
                "trained_on": config.trained_on,
            },
            "host": {
                "name": names["host"],
                "tower": self._attachment.tower.path,
                "sha256": self._attachment.tower_digest(),
            },
            "camera": {
                "key": self._recording.camera,
                "image_hw": [*self._recording.image_hw],
                "metres": config.camera_in_words if self._camera is None else "of the camera with these intrinsics",
                "intrinsics": None if self._camera is None else _numbers(self._camera),
            },
            "storage": {"dtype": storage.dtype, "unit": storage.unit, "range_m": [*storage.range_m]},
            "features": [channel.key for channel in self._channels],
            "flip": self._options.flip,
        }

    def _files(self) -> dict[Path, dict[str, object]]:
        files: dict[Path, dict[str, object]] = {RECORD_NAME: self._record}
        if self._camera is not None:
            camera = self._recording.camera.removeprefix(PREFIX)
            files[RECORD_NAME.with_name(f"intrinsics_{camera}.json")] = _numbers(self._camera)
        return files


def _numbers(camera: Intrinsics) -> dict[str, object]:
    """As an intrinsics.json has them."""
    numbers = {"fx": camera.fx_px, "fy": camera.fy_px, "cx": camera.cx_px, "cy": camera.cy_px}
    return {**numbers, "width": camera.image_hw[1], "height": camera.image_hw[0]}
