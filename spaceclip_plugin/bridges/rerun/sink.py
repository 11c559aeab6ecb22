"""Depth of a live policy in the Rerun viewer, or in an `.rrd` file for later."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor
from typing_extensions import Self

from spaceclip_plugin.bridges.optional import imported
from spaceclip_plugin.depth import DepthArrays, DepthMap, Intrinsics
from spaceclip_plugin.depth.camera import IntrinsicsLike
from spaceclip_plugin.depth.colours import colorize_depth
from spaceclip_plugin.depth.depth_map import UNFAMILIAR
from spaceclip_plugin.depth.photo import ImageLike
from spaceclip_plugin.depth.steadiness import Steadiness
from spaceclip_plugin.errors import ConfigError
from spaceclip_plugin.graft import spotlit

PoseLike = Tensor | npt.NDArray[np.floating[Any]]
"""(4, 4) matrix that takes points in metres from the camera's frame to the world's."""

_RIGID_TOLERANCE = 1e-4


class RerunSink:
    """Logs depth maps to Rerun, each camera under its name ("camera" where the host tells none).

    A camera has the entities `image`, `depth` (metres, 0 where invalid), `uncertainty` (metres), `points` (the valid
    ones, in colours of the image, or else of their depth), `age` (host steps), `familiarity` (0 to 1, where the head
    tells it) and `notes`, of an untrained head and of images unlike those of the training. Steady depth has
    `depth_alone` too (metres that the frame alone says), `steady/frames` and `steady/carried` (see `Steadiness`), and
    notes of what began anew and of places that were not believed. `attention` is the image, bright where the blocks of
    a grafted policy looked. They lie on the timelines "step" (host steps) and "frame" (image calls). Rerun's pixels are
    this package's: the first one's corner is (0, 0).

    Example:
        >>> import tempfile, torch
        >>> from spaceclip_plugin import DepthMap, Intrinsics
        >>> depth = DepthMap(torch.ones(1, 4, 6), torch.ones(1, 4, 6) > 0, "wrist", 0, (4, 6), True)
        >>> camera = Intrinsics(fx_px=5.0, fy_px=4.5, cx_px=3.0, cy_px=2.0, image_hw=(4, 6))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with RerunSink(f"{folder}/drive.rrd") as sink:
        ...         sink.log(depth, camera)
    """

    def __init__(
        self, path: str | os.PathLike[str] | None = None, *, url: str | None = None, spawn: bool = False
    ) -> None:
        """Open one place to log to.

        Args:
            path: of an `.rrd` file, which needs no screen; missing folders are created, an old file is replaced. It is
                written as frames come, so that a killed run leaves those it had.
            url: of a viewer that is running, such as "rerun+http://127.0.0.1:9876/proxy".
            spawn: open a viewer on this machine.

        Raises:
            ConfigError: not just one of the three, `path` is a folder, or rerun is not installed.
            OSError: the disk refuses the write.
        """
        if (path is not None) + (url is not None) + spawn != 1:
            raise ConfigError(
                "a RerunSink logs to one place; give a path (RerunSink('drive.rrd')), url='rerun+http://…' or "
                f"spawn=True, got path={path!r}, url={url!r}, spawn={spawn}"
            )
        if path is not None and Path(path).is_dir():
            raise ConfigError(f"cannot write {str(path)!r}: it is a folder; give the path of an .rrd file")
        self._rerun = import_rerun()
        self._recording = self._rerun.RecordingStream("spaceclip")
        self._closed = False
        if path is not None:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            Path(path).touch()  # Rerun itself would report a refusal in a log only
            self._recording.save(str(path))
        elif url is not None:
            self._recording.connect_grpc(url)
        else:
            self._recording.spawn()

    def log(
        self,
        depth_map: DepthMap,
        intrinsics: IntrinsicsLike | None = None,
        *,
        image: ImageLike | None = None,
        pose: PoseLike | None = None,
        attention: Tensor | npt.NDArray[np.floating] | None = None,
    ) -> None:
        """Log what one image call of the host says.

        Args:
            depth_map: of one image.
            intrinsics: as for `DepthMap.points`; None: the depth map's own. Where none are known there are no pinhole
                and no points.
            image: (H', W', 3) uint8 RGB of the same camera, at any resolution.
            pose: (4, 4) rotation and translation from the camera's frame to the world's, in metres; None: the camera
                stays where it was, at first in the origin.
            attention: (r, c) shares of a graft's cells, `live.attention.cells[camera][0]`, of a tower that was shown
                the whole image; needs `image`.

        Raises:
            ConfigError: the sink is closed, or an argument is not as above.
        """
        if self._closed:
            raise ConfigError("this RerunSink is closed; make another one, with another path")
        shown = DepthArrays.of(depth_map, intrinsics, image=image)
        lit = None if attention is None else spotlit(_photo_of(shown), attention)
        world_from_camera = None if pose is None else _rigid(pose)
        rr, recording, camera = self._rerun, self._recording, shown.camera
        recording.set_time("step", sequence=depth_map.step)
        recording.set_time("frame", sequence=depth_map.frame)
        # Entities are lists of names, not strings: Rerun then escapes what a camera's name may hold.
        if world_from_camera is not None:
            rotation, translation = world_from_camera[:3, :3], world_from_camera[:3, 3]
            recording.log([camera], rr.Transform3D(translation=translation, mat3x3=rotation))
        if shown.photo is not None:
            recording.log([camera, "image"], rr.Image(shown.photo), *self._pinhole(shown.photo_intrinsics))
        if lit is not None:
            recording.log([camera, "attention"], rr.Image(lit))
        recording.log([camera, "depth"], rr.DepthImage(shown.depth_m, meter=1.0), *self._pinhole(shown.intrinsics))
        if shown.uncertainty_m is not None:
            recording.log([camera, "uncertainty"], rr.DepthImage(shown.uncertainty_m, meter=1.0))
        if shown.points_m is not None:
            colours = shown.point_colours
            if colours is None:
                colours = colorize_depth(shown.depth_m[shown.valid], shown.valid[shown.valid])
            recording.log([camera, "points"], rr.Points3D(shown.points_m, colors=colours))
        recording.log([camera, "age"], rr.Scalars([float(depth_map.age)]))
        notes = [] if depth_map.trained else ["untrained head: its metres mean nothing"]
        if depth_map.familiarity is not None:
            share = float(depth_map.familiarity)
            recording.log([camera, "familiarity"], rr.Scalars([share]))
            if not share >= UNFAMILIAR:
                notes.append(f"unlike the training images (familiarity {share:.2f})")
        for note in notes:
            recording.log([camera, "notes"], rr.TextLog(note, level="WARN"))
        if shown.alone_m is not None:
            recording.log([camera, "depth_alone"], rr.DepthImage(shown.alone_m, meter=1.0))
            self._log_steadiness(camera, depth_map.steady[0])

    def _log_steadiness(self, camera: str, steady: Steadiness) -> None:
        rr, recording = self._rerun, self._recording
        recording.log([camera, "steady", "frames"], rr.Scalars([float(steady.frames)]))
        recording.log([camera, "steady", "carried"], rr.Scalars([steady.carried]))
        if steady.reset is not None:
            recording.log([camera, "notes"], rr.TextLog(f"steady depth begins anew: {steady.reset}", level="INFO"))
        if steady.doubt is not None:
            recording.log([camera, "notes"], rr.TextLog(f"the camera's place: {steady.doubt}", level="WARN"))

    def close(self) -> None:
        """Write or send what is left; may be called again."""
        if not self._closed:
            self._closed = True
            self._recording.flush()
            self._recording.disconnect()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _pinhole(self, camera: Intrinsics | None) -> tuple[Any, ...]:
        if camera is None:
            return ()
        height, width = camera.image_hw
        return (self._rerun.Pinhole(image_from_camera=camera.matrix().numpy(), resolution=[width, height]),)


def _photo_of(shown: DepthArrays) -> npt.NDArray[np.uint8]:
    if shown.photo is None:
        raise ConfigError("attention is shown on the camera's image; give that too: log(…, image=…, attention=…)")
    return shown.photo


def import_rerun() -> Any:
    """The rerun package; ConfigError where it is not installed."""
    [rerun] = imported("rerun", needed_for="a RerunSink", extra="viz")
    return rerun


def _rigid(pose: PoseLike) -> npt.NDArray[np.float64]:
    """The pose as a matrix, if it is a rotation and a translation."""
    given = pose.detach().cpu().numpy() if isinstance(pose, Tensor) else np.asarray(pose)
    if given.shape != (4, 4) or given.dtype.kind != "f" or not np.isfinite(given).all():
        raise ConfigError(f"a pose is a finite (4, 4) matrix, got {given.dtype} of shape {given.shape}")
    matrix: npt.NDArray[np.float64] = given.astype(np.float64)
    rotation = matrix[:3, :3]
    off = max(np.abs(rotation @ rotation.T - np.eye(3)).max(), np.abs(matrix[3] - (0, 0, 0, 1)).max())
    if off > _RIGID_TOLERANCE or np.linalg.det(rotation) < 0:
        raise ConfigError(
            "a pose takes points from the camera's frame to the world's: a rotation and a translation above the row "
            f"0 0 0 1, got {matrix.tolist()}"
        )
    return matrix
