"""A camera that moved: where what it sees was before, and its earlier depth as seen from where it is now."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from typing_extensions import Self

from spaceclip_plugin.depth import Intrinsics
from spaceclip_plugin.steady.fusion import FusedDepth
from spaceclip_plugin.steady.grid import ON_ONE_SURFACE, cell_centres, sampled, window_mean

_NEAREST = 0.05  # of the scene's depth; what comes nearer to the camera than that is not looked for
_HALF_A_CELL = 0.1  # ln depth that half a cell may come to
_LEAST_M = 1e-6
_HOLE = 0.3  # share of a cell's neighbours that something came to lie on, from which on it is a hole between them

_Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Rays:
    """The rays of a grid of cells.

    Attributes:
        camera: whose, for images of the grid's size.
        rays: (3, h, w) float32, directions through the cells' middles with z = 1.
    """

    camera: Intrinsics
    rays: Tensor

    @classmethod
    @lru_cache(maxsize=32)  # of a video they stay the same
    def of(cls, camera: Intrinsics, grid_hw: tuple[int, int]) -> Self:
        """Those of a camera, of its whole image."""
        centres = cell_centres(grid_hw)
        rays = cls(camera.resized(grid_hw), centres)
        return cls(rays.camera, rays.through(centres))

    @cached_property
    def log_lengths(self) -> Tensor:
        """(h, w) logarithm of how much longer the way along a ray is than depth, which is along the axis."""
        return self.rays.square().sum(dim=0).log() / 2

    def through(self, places: Tensor) -> Tensor:
        """(3, …) directions through places (2, …) of the grid, with z = 1."""
        x = (places[0] - self.camera.cx_px) / self.camera.fx_px
        y = (places[1] - self.camera.cy_px) / self.camera.fy_px
        return torch.stack([x, y, torch.ones_like(x)])

    def places(self, points: Tensor, nearest: Tensor | float) -> Tensor:
        """(2, …) places of points (3, …) in the grid; those nearer than `nearest` are brought there."""
        x, y, z = points
        z = z.clamp_min(nearest)
        return torch.stack([
            x / z * self.camera.fx_px + self.camera.cx_px,
            y / z * self.camera.fy_px + self.camera.cy_px,
        ])  # fmt: skip


@dataclass(frozen=True, eq=False)
class Motion:
    """From one camera frame to another: `rotation @ x + translation`.

    Attributes:
        rotation: (3, 3) float32.
        translation_m: (3,) float32.
    """

    rotation: Tensor
    translation_m: Tensor

    @classmethod
    def of(cls, matrix: _Array) -> Self:
        """That of a rigid matrix (4, 4)."""
        tensor = torch.from_numpy(np.asarray(matrix, dtype=np.float32))
        return cls(tensor[:3, :3], tensor[:3, 3])

    def angle(self) -> float:
        """How far it turns, in radians."""
        return float(((self.rotation.trace() - 1) / 2).clamp(-1, 1).acos())

    def inverse(self) -> Motion:
        """The way back."""
        return Motion(self.rotation.T, -self.rotation.T @ self.translation_m)

    def points(self, rays: Tensor, depth_m: Tensor) -> Tensor:
        """(3, …) points at depth (…) along rays (3, h, w), in the other frame."""
        turned = (self.rotation @ rays.flatten(1)).reshape(3, *[1] * (depth_m.ndim - 2), *rays.shape[1:])
        return turned * depth_m + self.translation_m.reshape(3, *[1] * depth_m.ndim)


def places_before(rays: Rays, log_depth: Tensor, back: Motion, *, every: int = 1) -> Tensor:
    """(2, …) where cells at depth (…, h, w), in ln metres, were in the earlier frame; `back` leads into it.

    `log_depth` is of every so many of the rays' cells along each axis, from the first.
    """
    depth_m = log_depth.exp()
    return rays.places(back.points(rays.rays[:, ::every, ::every], depth_m), _NEAREST * depth_m)


def carried(rays: Rays, earlier: FusedDepth, onward: Motion) -> FusedDepth:
    """Depth of an earlier frame, seen from where the camera is now: the nearest surface wins, and is known there.

    Args:
        rays: of both frames.
        earlier: depth of the earlier one.
        onward: out of its frame into the present one.
    """
    height, width = earlier.log_depth.shape
    depth_m = earlier.log_depth.exp()
    points = onward.points(rays.rays, depth_m)
    columns, rows = rays.places(points, _NEAREST * depth_m).floor().long()
    lands = earlier.known & (points[2] > _NEAREST * depth_m)
    lands &= (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    # A cell beyond the last takes what lands nowhere. Minima and maxima hang on no order: always the same bits.
    target = torch.where(lands, rows * width + columns, height * width).flatten()
    depth = points[2].flatten()
    nearest = depth.new_full((height * width + 1,), torch.inf).scatter_reduce(0, target, depth, "amin")
    of_nearest = torch.where(depth == nearest[target], earlier.variance.flatten(), 0.0)
    variance = depth.new_zeros(height * width + 1).scatter_reduce(0, target, of_nearest, "amax")
    there = nearest[:-1].isfinite()
    deep = torch.where(there, nearest[:-1], 1.0).log()
    maps = [values.reshape(height, width) for values in (deep, variance[:-1], there)]
    return _without_holes(FusedDepth(*maps))


def between_cells(rays: Rays, earlier: FusedDepth, seen: FusedDepth, places: Tensor, onward: Motion) -> FusedDepth:
    """What was carried, to a part of a cell: read between the cells of the earlier frame, on one surface.

    Depth that lands in a cell is that of a place up to half a cell away, and on a floor that is some per cent.

    Args:
        rays, earlier, onward: as for `carried`.
        seen: what that gave.
        places: (2, h, w) where each cell was in the earlier frame, by what was carried.
    """
    (log_depth, known), inside = sampled(torch.stack([earlier.log_depth, earlier.known.to(places)]), places)
    _, _, z = onward.points(rays.through(places), log_depth.exp())
    finer = z.clamp_min(_LEAST_M).log()
    near = inside & (known > ON_ONE_SURFACE) & ((finer - seen.log_depth).abs() < _HALF_A_CELL)
    return replace(seen, log_depth=torch.where(near, finer, seen.log_depth))


def _without_holes(maps: FusedDepth) -> FusedDepth:
    """Cells that nothing came to lie on take the mean of their neighbours, where enough of those were luckier."""
    there = maps.known.to(maps.log_depth)
    stacked = torch.stack([there, maps.log_depth * there, maps.variance * there])
    share, deep, variance = window_mean(stacked, 3)
    at_least = share.clamp_min(_HOLE)
    return FusedDepth(
        torch.where(maps.known, maps.log_depth, deep / at_least),
        torch.where(maps.known, maps.variance, variance / at_least),
        maps.known | (share > _HOLE),
    )
