"""The grid of cells that frames are compared and depth is fused on: means over cells and over windows of cells."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, avg_pool2d, grid_sample

CELLS = 56
"""Cells along the longer side of a grid."""
ON_ONE_SURFACE = 0.99
"""Share of what a place between cells is read from that must be known, for it to be read."""


def grid_of(image_hw: tuple[int, int]) -> tuple[int, int]:
    """(h, w) of the grid of images of that size: `CELLS` along the longer side, cells about square."""
    longer = max(image_hw)
    height, width = (max(1, round(side * CELLS / longer)) for side in image_hw)
    return height, width


def cell_means(maps: Tensor, grid_hw: tuple[int, int]) -> Tensor:
    """(C, h, w) means of maps (C, H, W) over the cells of a grid."""
    (height, width), (rows, columns) = maps.shape[-2:], grid_hw
    if height % rows == 0 and width % columns == 0:
        return avg_pool2d(maps[None], (height // rows, width // columns))[0]
    return adaptive_avg_pool2d(maps[None], grid_hw)[0]


@lru_cache(maxsize=16)
def cell_centres(grid_hw: tuple[int, int]) -> Tensor:
    """(2, h, w) float32 places of the cells themselves: column and row, the middle of the first at (0.5, 0.5)."""
    rows, columns = (torch.arange(count) + 0.5 for count in grid_hw)
    return torch.stack(torch.meshgrid(columns, rows, indexing="xy"))


def sampled(maps: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
    """(C, …) maps (C, h, w) at places (2, …) between their cells, and which of them lie inside, bool."""
    height, width = maps.shape[1:]
    size = maps.new_tensor([width, height]).reshape(2, *[1] * (places.ndim - 1))
    scaled = places / size * 2 - 1
    inside = (scaled[0].abs() < 1) & (scaled[1].abs() < 1)
    grid = scaled.reshape(1, 2, 1, -1).permute(0, 2, 3, 1)
    values = grid_sample(maps[None], grid, mode="bilinear", padding_mode="border", align_corners=False)
    return values.reshape(len(maps), *places.shape[1:]), inside


def window_mean(maps: Tensor, side: int) -> Tensor:
    """(C, h, w) means of square windows about each cell, of what of them lies inside."""
    height, width = maps.shape[1:]
    return _means_along(height, side) @ maps @ _means_along(width, side).T


def nearby_extremes(values: Tensor) -> tuple[Tensor, Tensor]:
    """(h, w) smallest and largest of each cell and its eight neighbours."""
    return -_largest_nearby(-values), _largest_nearby(values)


def _largest_nearby(values: Tensor) -> Tensor:
    for axis in (0, 1):
        count = values.shape[axis]
        first, last = values.narrow(axis, 0, 1), values.narrow(axis, count - 1, 1)
        longer = torch.cat([first, values, last], dim=axis)
        sides = torch.maximum(longer.narrow(axis, 0, count), longer.narrow(axis, 2, count))
        values = torch.maximum(values, sides)
    return values


@lru_cache(maxsize=64)
def _means_along(count: int, side: int) -> Tensor:
    """(n, n) float32, whose product with a column is its means over windows: two small products beat any pooling."""
    at = torch.arange(count)
    near = ((at[:, None] - at).abs() <= side // 2).float()
    return near / near.sum(dim=1, keepdim=True)
