"""The grid of cells that frames are compared and depth is fused on: means over cells and over windows of cells.

Grids are arrays of numpy: on a few thousand numbers an operation of numpy takes a fraction of one of torch.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, avg_pool2d, grid_sample

CELLS = 56
"""Cells along the longer side of a grid."""
ON_ONE_SURFACE = 0.99
"""Share of what a place between cells is read from that must be known, for it to be read."""

Cells = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]


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


def as_cells(maps: Tensor) -> Cells:
    """The same as an array, of whatever device; shares memory where it can."""
    cells: Cells = maps.detach().cpu().numpy()
    return cells


@lru_cache(maxsize=16)
def cell_centres(grid_hw: tuple[int, int]) -> Cells:
    """(2, h, w) float32 places of the cells themselves: column and row, the middle of the first at (0.5, 0.5)."""
    rows, columns = (np.arange(count, dtype=np.float32) + 0.5 for count in grid_hw)
    return np.stack(np.meshgrid(columns, rows))


def sampled(maps: Cells, places: Cells) -> tuple[Cells, Mask]:
    """(C, …) maps (C, h, w) at places (2, …) between their cells, and which of them lie inside, bool."""
    height, width = maps.shape[1:]
    size = np.array([width, height], dtype=np.float32).reshape(2, *[1] * (places.ndim - 1))
    scaled = places / size * 2 - 1
    off_x, off_y = np.abs(scaled)
    grid = torch.from_numpy(scaled.reshape(1, 2, 1, -1)).permute(0, 2, 3, 1)
    values: Cells = grid_sample(
        torch.from_numpy(maps)[None], grid, mode="bilinear", padding_mode="border", align_corners=False
    ).numpy()
    return values.reshape(len(maps), *places.shape[1:]), (off_x < 1) & (off_y < 1)


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


_Values = TypeVar("_Values", Cells, Mask)


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


@lru_cache(maxsize=16)
def linear_between(count: int, of: int) -> Cells:
    """(count, of) float32, whose product with `of` values is `count` between them, as `interpolate` has them."""
    at = np.maximum((np.arange(count) + 0.5) * of / count - 0.5, 0.0)
    weights = 1 - np.abs(np.minimum(at, of - 1)[:, None] - np.arange(of))
    found: Cells = np.maximum(weights, 0.0).astype(np.float32)
    return found
