"""What is known of the true depth of photos, at some of their pixels: measured depth maps, and a list of ranges."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from spaceclip_plugin.errors import DataError

POINTS = 512
"""Pixels of a photo whose measured depth is kept."""

_COLUMNS = ["index", "u_px", "v_px", "depth_m"]

Points = tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]
"""Pixels (n,) of a photo, row by row, and the metres (n,) that were measured there."""

Ranges = Mapping[int, list[tuple[float, float, float]]]
"""By the number of a photo in its source, from 0: (u, v) in its pixels, corner convention, and metres."""


def measured_points(depth_m: npt.NDArray[np.float32], photo_hw: tuple[int, int]) -> Points:
    """Measured pixels spread evenly over those that are known, as pixels of the photo; none where none is known."""
    height, width = depth_m.shape
    known = np.flatnonzero((depth_m > 0) & np.isfinite(depth_m))
    # The middles of as many equal parts: no first or last row is preferred.
    count = min(POINTS, len(known))
    chosen = known[((np.arange(count) + 0.5) * len(known) / max(count, 1)).astype(np.int64)]
    rows = ((chosen // width + 0.5) * photo_hw[0] / height).astype(np.int64)
    columns = ((chosen % width + 0.5) * photo_hw[1] / width).astype(np.int64)
    return (rows * photo_hw[1] + columns).astype(np.int32), depth_m.reshape(-1)[chosen].astype(np.float32)


def read_ranges(path: Path, *, photos: int) -> Ranges:
    """The ranges in a CSV file with the columns index, u_px, v_px and depth_m.

    Raises:
        DataError: it cannot be read, or a line is no range. Names the line.
    """
    expected = f"expected a CSV file whose first line is {','.join(_COLUMNS)}"
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.reader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: {expected}, but it cannot be read ({error})") from error
    if not rows or [word.strip() for word in rows[0]] != _COLUMNS:
        raise DataError(f"{path}: {expected}")
    found: dict[int, list[tuple[float, float, float]]] = {}
    for line, row in enumerate(rows[1:], start=2):
        if row:
            index, u_px, v_px, depth_m = _range(row, f"{path.name}:{line}", photos)
            found.setdefault(index, []).append((u_px, v_px, depth_m))
    if not found:
        raise DataError(f"{path}: {expected} and then ranges, but there is none")
    return found


def range_points(ranges: list[tuple[float, float, float]], photo_hw: tuple[int, int], name: str) -> Points:
    """Ranges of one photo; DataError where one lies beyond it."""
    height, width = photo_hw
    for u_px, v_px, _ in ranges:
        if not (0 <= u_px < width and 0 <= v_px < height):
            raise DataError(f"{name}: a range at ({u_px:g}, {v_px:g}) lies beyond the photo, {height}x{width} (HxW)")
    places = [int(v_px) * width + int(u_px) for u_px, v_px, _ in ranges]
    return np.array(places, np.int32), np.array([metres for *_, metres in ranges], np.float32)


def _range(row: list[str], where: str, photos: int) -> tuple[int, float, float, float]:
    try:
        index, u_px, v_px, depth_m = int(row[0]), *(float(word) for word in row[1:])
    except (ValueError, IndexError) as error:
        raise DataError(f"{where}: expected four numbers, got {', '.join(row)[:80]}") from error
    if not 0 <= index < photos:
        raise DataError(f"{where}: there is no photo {index}; they are counted from 0 to {photos - 1}")
    if not all(map(math.isfinite, (u_px, v_px, depth_m))) or depth_m <= 0:
        raise DataError(f"{where}: expected a pixel and a positive distance in metres, got {', '.join(row)[:80]}")
    return index, u_px, v_px, depth_m
