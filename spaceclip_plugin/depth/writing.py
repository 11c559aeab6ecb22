"""Depth in files: PNG of whole millimetres or of colours, and points as PLY. Files are whole or absent."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import numpy.typing as npt

from spaceclip_plugin._files import atomic_path
from spaceclip_plugin.errors import ConfigError

_ORIENTATION = 0x0112  # the EXIF tag that data.files.orientation reads


def write_png(
    path: str | os.PathLike[str],
    array: npt.NDArray[np.uint8] | npt.NDArray[np.uint16],
    *,
    replace: bool = True,
) -> None:
    """Write a PNG file atomically. It says that its rows are upright as they are (EXIF orientation 1).

    Example:
        >>> import tempfile, pathlib, numpy
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_png(pathlib.Path(folder, "grey.png"), numpy.full((4, 6), 128, numpy.uint8))
        ...     sorted(path.name for path in pathlib.Path(folder).iterdir())
        ['grey.png']

    Args:
        path: of the file; missing folders are created.
        array: (H, W, 3) uint8 RGB, (H, W) uint8 grey, or (H, W) uint16.
        replace: whether a file that is there is replaced.

    Raises:
        ConfigError: the array is none of these, or without `replace` something is at `path`.
        OSError: the disk refuses the write.
    """
    from PIL import Image

    grey = array.ndim == 2 and array.dtype in (np.uint8, np.uint16)
    colour = array.ndim == 3 and array.shape[-1] == 3 and array.dtype == np.uint8
    if not (grey or colour) or array.size == 0:
        raise ConfigError(
            f"cannot write {array.dtype} of shape {array.shape} as PNG; expected uint8 (H, W, 3), uint8 (H, W) or "
            "uint16 (H, W), not empty"
        )
    exif = Image.Exif()
    exif[_ORIENTATION] = 1
    with atomic_path(path, replace=replace) as temporary:
        Image.fromarray(np.ascontiguousarray(array)).save(temporary, format="PNG", exif=exif)


def write_ply(
    path: str | os.PathLike[str],
    points_m: npt.NDArray[np.float32],
    colours: npt.NDArray[np.uint8] | None,
    *,
    trained: bool,
    replace: bool = True,
) -> None:
    """Write points (N, 3) in metres and colours (N, 3), if any, as a binary little-endian PLY; see `write_png`."""
    columns: dict[str, tuple[str, npt.NDArray[Any]]] = {name: ("<f4", points_m[:, i]) for i, name in enumerate("xyz")}
    if colours is not None:
        columns |= {name: ("u1", colours[:, i]) for i, name in enumerate(("red", "green", "blue"))}
    vertices = np.empty(len(points_m), dtype=[(name, kind) for name, (kind, _) in columns.items()])
    for name, (_, values) in columns.items():
        vertices[name] = values
    header = [
        "ply",
        "format binary_little_endian 1.0",
        "comment metres, camera frame: x right, y down, z forward",
        *([] if trained else ["comment of an untrained head: the numbers mean nothing"]),
        f"element vertex {len(vertices)}",
        *(f"property {'float' if kind == '<f4' else 'uchar'} {name}" for name, (kind, _) in columns.items()),
        "end_header",
    ]
    with atomic_path(path, replace=replace) as temporary:
        temporary.write_bytes("\n".join([*header, ""]).encode("ascii") + vertices.tobytes())
