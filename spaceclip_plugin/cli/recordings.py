"""Recordings that `predict` writes beside its files: depth and photos of a whole call in one Rerun or MCAP file."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt

from spaceclip_plugin._files import atomic_path
from spaceclip_plugin.cli.shots import Shot
from spaceclip_plugin.depth import DepthMap
from spaceclip_plugin.errors import ConfigError

Record = Callable[[Shot, DepthMap, npt.NDArray[np.uint8]], None]

_NS_PER_S = 10**9


def recordings_of(args: argparse.Namespace) -> dict[str, Path]:
    """Where recordings go, by kind; ConfigError for one that cannot be written."""
    paths: dict[str, Path] = {kind: path for kind in ("rerun", "mcap") if (path := getattr(args, kind)) is not None}
    for kind, path in paths.items():
        if path.is_dir():
            raise ConfigError(f"--{kind} takes a file, {str(path)!r} is a folder")
    if "rerun" in paths:
        from spaceclip_plugin.bridges.rerun.sink import import_rerun

        import_rerun()
    if "mcap" in paths:
        from spaceclip_plugin.bridges.ros.mcap_writer import import_mcap

        import_mcap()
        if args.intrinsics is None:
            raise ConfigError("--mcap writes the camera's intrinsics beside its depth; give --intrinsics, too")
    return paths


@contextmanager
def recording(paths: Mapping[str, Path], *, replace: bool) -> Iterator[Record]:
    """Recordings under way: what takes a shot with its depth and photo.
    They get their names when all shots are in them: a run that is killed leaves nothing of these names."""
    sink, writer, number = None, None, itertools.count()
    with ExitStack() as stack:
        places = {kind: stack.enter_context(atomic_path(path, replace=replace)) for kind, path in paths.items()}
        if "rerun" in places:
            from spaceclip_plugin.bridges.rerun import RerunSink

            sink = stack.enter_context(RerunSink(places["rerun"]))
        if "mcap" in places:
            from spaceclip_plugin.bridges.ros import McapWriter

            writer = stack.enter_context(McapWriter(places["mcap"]))

        def record(shot: Shot, depth: DepthMap, photo: npt.NDArray[np.uint8]) -> None:
            seconds = next(number) if shot.time_s is None else shot.time_s  # photos: one a second
            if sink is not None:
                sink.log(depth, shot.camera, image=photo, pose=shot.pose)
            if writer is not None and shot.camera is not None:
                writer.write(depth, shot.camera, stamp_ns=round(seconds * _NS_PER_S), image=photo)

        yield record
