"""What `spaceclip predict` writes: files of each photo, and recordings of all of them."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from typing_extensions import Self

from spaceclip_plugin._files import atomic_path
from spaceclip_plugin.bridges.rerun import RerunSink, import_rerun
from spaceclip_plugin.bridges.ros import McapWriter, import_mcap
from spaceclip_plugin.depth import depth_picture, write_png
from spaceclip_plugin.depth.camera import Intrinsics
from spaceclip_plugin.depth.depth_map import DepthMap
from spaceclip_plugin.errors import ConfigError

_NS_PER_PHOTO = 10**9


def files_of(photo: Path, out: Path, *, points: bool) -> dict[str, Path]:
    """Where a photo's files go, by kind."""
    files = {"depth_mm": out / f"{photo.stem}_depth.png", "picture": out / f"{photo.stem}_picture.png"}
    return {**files, "points": out / f"{photo.stem}.ply"} if points else files


def write_files(
    files: Mapping[str, Path],
    depth: DepthMap,
    photo: npt.NDArray[np.uint8],
    camera: Intrinsics | None,
    *,
    name: str,
    replace: bool,
) -> None:
    """Write a photo's files, each of them whole.

    Raises:
        ConfigError: without `replace` one is there by now.
        OSError: the disk refuses the write.
    """
    depth.save_png16(files["depth_mm"], replace=replace)
    write_png(files["picture"], depth_picture(depth.relabelled(camera=name), photo), replace=replace)
    if camera is not None and "points" in files:
        depth.save_ply(files["points"], camera, image=photo, replace=replace)


@dataclass(frozen=True)
class RecordingPaths:
    """Where all photos go together.

    Attributes:
        rerun, mcap: paths of the two kinds; None for one that is not wanted.
    """

    rerun: Path | None
    mcap: Path | None

    def by_kind(self) -> dict[str, Path]:
        """Those that are wanted."""
        pairs = (("rerun", self.rerun), ("mcap", self.mcap))
        return {kind: path for kind, path in pairs if path is not None}

    def check(self, *, with_camera: bool) -> None:
        """Check what can be checked before there is depth.

        Raises:
            ConfigError: a path is a folder, a library is missing, or MCAP is asked for without a camera.
        """
        for kind, path in self.by_kind().items():
            if path.is_dir():
                raise ConfigError(f"--{kind} takes a file, {str(path)!r} is a folder")
        if self.rerun is not None:
            import_rerun()
        if self.mcap is not None:
            import_mcap()
            if not with_camera:
                raise ConfigError("--mcap writes the camera's intrinsics beside its depth; give --intrinsics, too")


class Recordings:
    """Recordings under way, entered before the first photo.

    They get their names when all photos are in them: a run that is killed leaves nothing of these names.
    """

    def __init__(self, paths: RecordingPaths, *, replace: bool) -> None:
        """Nothing is opened yet; `replace` says whether a file that is there is replaced in the end."""
        self._paths = paths
        self._replace = replace
        self._open = ExitStack()
        self._sink: RerunSink | None = None
        self._writer: McapWriter | None = None
        self._photos = 0

    def __enter__(self) -> Self:
        with ExitStack() as undo:
            if self._paths.rerun is not None:
                path = undo.enter_context(atomic_path(self._paths.rerun, replace=self._replace))
                self._sink = undo.enter_context(RerunSink(path))
            if self._paths.mcap is not None:
                path = undo.enter_context(atomic_path(self._paths.mcap, replace=self._replace))
                self._writer = undo.enter_context(McapWriter(path))
            self._open = undo.pop_all()
        return self

    def add(self, depth: DepthMap, photo: npt.NDArray[np.uint8], camera: Intrinsics | None) -> None:
        """A photo's depth, a second after the one before in MCAP, and in Rerun a frame."""
        if self._sink is not None:
            self._sink.log(depth, camera, image=photo)
        if self._writer is not None and camera is not None:
            self._writer.write(depth, camera, stamp_ns=self._photos * _NS_PER_PHOTO, image=photo)
        self._photos += 1

    def __exit__(self, *exception: object) -> None:
        self._open.__exit__(*exception)  # type: ignore[arg-type]
