"""Points as a PLY file."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import numpy.typing as npt

from spaceclip_plugin._files import atomic_path

_TYPES = {"<f4": "float", "u1": "uchar"}


def write_ply(
    path: str | os.PathLike[str],
    points_m: npt.NDArray[np.float32],
    colours: npt.NDArray[np.uint8] | None,
    *,
    trained: bool,
    replace: bool = True,
) -> None:
    """Write points as a binary little-endian PLY, atomically.

    Args:
        path: of the file; missing folders are created.
        points_m: (N, 3) metres in the camera frame.
        colours: (N, 3) uint8 RGB; None: without.
        trained: False for depth of a head that is not, which the file then says.
        replace: whether a file that is there is replaced.

    Raises:
        ConfigError: without `replace` something is at `path`.
        OSError: the disk refuses the write.
    """
    parts: list[tuple[str, tuple[str, ...], npt.NDArray[Any]]] = [("<f4", ("x", "y", "z"), points_m)]
    if colours is not None:
        parts.append(("u1", ("red", "green", "blue"), colours))
    fields = [(name, kind) for kind, names, _ in parts for name in names]
    vertices = np.empty(len(points_m), dtype=fields)
    for _, names, values in parts:
        for column, name in enumerate(names):
            vertices[name] = values[:, column]
    header = [
        "ply",
        "format binary_little_endian 1.0",
        "comment metres, camera frame: x right, y down, z forward",
        *([] if trained else ["comment of an untrained head: the numbers mean nothing"]),
        f"element vertex {len(vertices)}",
        *(f"property {_TYPES[kind]} {name}" for name, kind in fields),
        "end_header",
    ]
    with atomic_path(path, replace=replace) as temporary:
        temporary.write_bytes("\n".join([*header, ""]).encode("ascii") + vertices.tobytes())
