"""The grid of cells that frames are compared and depth is fused on: means over cells and over windows of cells.

Grids are arrays of numpy: on a few thousand numbers an operation of numpy takes a fraction of one of torch.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, avg_pool2d

CELLS = 56
"""Cells along the longer side of a grid."""
ON_ONE_SURFACE = 0.99
"""Share of what a place between cells is read from that must be known, for it to be read."""

Cells = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
_Indices = npt.NDArray[np.intp]
_Values = TypeVar("_Values", Cells, Mask)


def grid_of(image_hw: tuple[int, int]) -> tuple[int, int]:
    """(h, w) of the grid of images of that size: `CELLS` along the longer side, cells about square."""
    longer = max(image_hw)
    height, width = (max(1, round(side * CELLS / longer)) for side in image_hw)
    return height, width


def cell_means(maps: Tensor, grid_hw: tuple[int, int]) -> Tensor:
    """(C, h, w) means of maps (C, H, W) over the cells of a grid, where the maps are."""
    (height, width), (rows, columns) = maps.shape[-2:], grid_hw
    if height % rows == 0 and width % columns == 0:
        return avg_pool2d(maps[None], (height // rows, width // columns))[0]
    return adaptive_avg_pool2d(maps[None], grid_hw)[0]


def as_array(values: Tensor) -> Any:
    """The same as an array, of whatever device; shares memory where it can."""
    return values.numpy(force=True)


@lru_cache(maxsize=16)
def cell_centres(grid_hw: tuple[int, int]) -> Cells:
    """(2, h, w) float32 places of the cells themselves: column and row, the middle of the first at (0.5, 0.5)."""
    rows, columns = (np.arange(count, dtype=np.float32) + 0.5 for count in grid_hw)
    return np.stack(np.meshgrid(columns, rows))


def sampled(maps: Cells, places: Cells) -> tuple[Cells, Mask]:
    """(C, …) maps (C, h, w) at places (2, …) between their cells, and which of them lie inside, bool."""
    height, width = maps.shape[1:]
    x, y = places - 0.5
    inside = (x > -0.5) & (x < width - 0.5) & (y > -0.5) & (y < height - 0.5)
    x, y = (np.minimum(np.fmax(at, 0), last) for at, last in ((x, width - 1), (y, height - 1)))
    left, top = np.minimum(np.floor(x), max(width - 2, 0)), np.minimum(np.floor(y), max(height - 2, 0))
    x -= left
    y -= top
    first = (top * width + left).astype(np.intp)
    right, down = min(width - 1, 1), min(height - 1, 1) * width
    corners = np.empty((4, len(maps), *first.shape), dtype=np.float32)
    for at, index in enumerate((first, first + right, first + down, first + (down + right))):
        for found, values in zip(corners[at], maps.reshape(len(maps), -1), strict=True):
            found[...] = values[index]
    above, below = _between(corners[0], corners[1], x), _between(corners[2], corners[3], x)
    return _between(above, below, y), inside


def _between(values: Cells, others: Cells, part: Cells) -> Cells:
    """That part of the way from one to the other; takes the room of the other."""
    others -= values
    others *= part
    others += values
    return others


def spread(values: Cells, size: tuple[int, int]) -> Cells:
    """(C, H, W) maps of that size of maps (C, h, w), linear between their cells."""
    for axis, count in ((2, size[1]), (1, size[0])):
        first, second, part = _neighbours(count, values.shape[axis])
        part = part if axis == 2 else part[:, None]
        values = _between(values.take(first, axis), values.take(second, axis), part)
    return values


@lru_cache(maxsize=16)
def _neighbours(count: int, of: int) -> tuple[_Indices, _Indices, Cells]:
    """(count,) between which of so many cells each of that many lies, and what part of the way along."""
    at = np.clip((np.arange(count) + 0.5) * of / count - 0.5, 0, of - 1)
    first = np.minimum(np.floor(at), max(of - 2, 0)).astype(np.intp)
    return first, np.minimum(first + 1, of - 1), (at - first).astype(np.float32)


def window_mean(maps: Cells, side: int) -> Cells:
    """(C, h, w) means of square windows about each cell, of what of them lies inside."""
    height, width = maps.shape[1:]
    means: Cells = _means_along(height, side) @ maps @ _means_along(width, side).T
    return means


def nearby_extremes(values: Cells) -> tuple[Cells, Cells]:
    """(h, w) smallest and largest of each cell and its eight neighbours."""
    return _nearby(np.minimum, values), _nearby(np.maximum, values)


def all_nearby(there: Mask) -> Mask:
    """(h, w) bool, whether all of each cell and its eight neighbours are."""
    return _nearby(np.logical_and, there)


def _nearby(both: np.ufunc, values: _Values) -> _Values:
    """What `both` makes of each cell and its neighbours, first above and below, then beside."""
    for _ in range(2):
        found = values.copy(order="K")
        both(found[1:], values[:-1], out=found[1:])
        both(found[:-1], values[1:], out=found[:-1])
        values = found.T
    return values


def median(values: npt.NDArray[np.floating]) -> float:
    """The lower of the two in the middle, as `torch.median` has it; NaN of none."""
    middle = (values.size - 1) // 2
    return float(np.partition(values, middle, axis=None)[middle]) if values.size else float("nan")


@lru_cache(maxsize=64)
def _means_along(count: int, side: int) -> Cells:
    """(n, n) float32, whose product with a column is its means over windows: two small products beat any pooling."""
    at = np.arange(count)
    near = (np.abs(at[:, None] - at) <= side // 2).astype(np.float32)
    means: Cells = near / near.sum(axis=1, keepdims=True)
    return means
