"""A camera that moved: where what it sees was before, and its earlier depth as seen from where it is now."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import numpy as np
import numpy.typing as npt
from typing_extensions import Self

from spaceclip_plugin.depth import Intrinsics
from spaceclip_plugin.steady.fusion import FusedDepth
from spaceclip_plugin.steady.grid import ON_ONE_SURFACE, Cells, cell_centres, window_mean

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
    rays: Cells

    @classmethod
    @lru_cache(maxsize=32)  # of a video they stay the same
    def of(cls, camera: Intrinsics, grid_hw: tuple[int, int]) -> Self:
        """Those of a camera, of its whole image."""
        centres = cell_centres(grid_hw)
        rays = cls(camera.resized(grid_hw), centres)
        return cls(rays.camera, rays.through(centres))

    @cached_property
    def log_lengths(self) -> Cells:
        """(h, w) logarithm of how much longer the way along a ray is than depth, which is along the axis."""
        lengths: Cells = np.log((self.rays * self.rays).sum(axis=0)) / 2
        return lengths

    def through(self, places: Cells) -> Cells:
        """(3, …) directions through places (2, …) of the grid, with z = 1."""
        directions = np.ones((3, *places.shape[1:]), dtype=np.float32)
        directions[0] = (places[0] - self.camera.cx_px) / self.camera.fx_px
        directions[1] = (places[1] - self.camera.cy_px) / self.camera.fy_px
        return directions

    def places(self, points: npt.NDArray[np.floating], nearest: npt.NDArray[np.floating] | float) -> Cells:
        """(2, …) places of points (3, …) in the grid; those nearer than `nearest` are brought there."""
        places: Cells = points[:2] / np.maximum(points[2], nearest)
        for along, (focal_px, centre_px) in zip(
            places, ((self.camera.fx_px, self.camera.cx_px), (self.camera.fy_px, self.camera.cy_px)), strict=True
        ):
            along *= focal_px
            along += centre_px
        return places


@dataclass(frozen=True, eq=False)
class Motion:
    """From one camera frame to another: `rotation @ x + translation`.

    Attributes:
        rotation: (3, 3) float32.
        translation_m: (3,) float32.
    """

    rotation: Cells
    translation_m: Cells

    @classmethod
    def of(cls, rotation: _Array, translation_m: _Array) -> Self:
        """The same in single precision."""
        return cls(rotation.astype(np.float32), translation_m.astype(np.float32))

    def angle(self) -> float:
        """How far it turns, in radians."""
        return math.acos(max(-1.0, min(1.0, (float(self.rotation.trace()) - 1) / 2)))

    def inverse(self) -> Motion:
        """The way back."""
        return Motion(self.rotation.T, -self.rotation.T @ self.translation_m)

    def points(self, rays: Cells, depth_m: Cells) -> Cells:
        """(3, h, w) points at depth (h, w) along rays (3, h, w), in the other frame."""
        points = (self.rotation @ rays.reshape(3, -1)).reshape(rays.shape)
        points *= depth_m
        points += self.translation_m[:, None, None]
        return points

    def depths(self, rays: Cells, depth_m: Cells) -> Cells:
        """(h, w) depth in the other frame of points at depth (h, w) along rays (3, h, w)."""
        turned = (self.rotation[2:] @ rays.reshape(3, -1)).reshape(depth_m.shape)
        depths: Cells = turned * depth_m + self.translation_m[2]
        return depths


def places_before(rays: Rays, log_depth: Cells, back: Motion) -> Cells:
    """(2, h, w) where cells at depth (h, w), in ln metres, were in the earlier frame; `back` leads into it."""
    depth_m = np.exp(log_depth)
    return rays.places(back.points(rays.rays, depth_m), _NEAREST * depth_m)


def places_by_scale(rays: Rays, log_depth: Cells, back: Motion, log_scales: Cells, *, every: int) -> Cells:
    """(2, S, …) where they were if their depth is too large by each of these factors (S,), in ln.

    Only of every so many of the cells along each axis, from the first.
    """
    some, log_depth = rays.rays[:, ::every, ::every], log_depth[::every, ::every]
    turned = (back.rotation @ some.reshape(3, -1)).reshape(some.shape)
    shifted = back.translation_m[:, None, None] / np.exp(log_depth)
    # All in units of the depth itself: larger depth is a shorter way of the camera.
    points = np.exp(log_scales)[:, None, None] * shifted[:, None]
    points += turned[:, None]
    return rays.places(points, _NEAREST)


def carried(rays: Rays, earlier: FusedDepth, onward: Motion) -> FusedDepth:
    """Depth of an earlier frame, seen from where the camera is now: the nearest surface wins, and is known there.

    Args:
        rays: of both frames.
        earlier: depth of the earlier one.
        onward: out of its frame into the present one.
    """
    height, width = earlier.log_depth.shape
    depth_m = np.exp(earlier.log_depth)
    points, least_m = onward.points(rays.rays, depth_m), _NEAREST * depth_m
    columns, rows = np.floor(rays.places(points, least_m))
    lands = earlier.known & (points[2] > least_m)
    lands &= (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    # A cell beyond the last takes what lands nowhere. Minima and maxima hang on no order: always the same bits.
    target = np.where(lands, rows * width + columns, height * width).astype(np.intp).ravel()
    depth = points[2].ravel()
    nearest = np.full(height * width + 1, np.inf, dtype=np.float32)
    np.minimum.at(nearest, target, depth)
    of_nearest = np.where(depth == nearest[target], earlier.variance.ravel(), np.float32(0))
    variance = np.zeros_like(nearest)
    np.maximum.at(variance, target, of_nearest)
    there = nearest[:-1] < np.inf
    deep = np.log(np.where(there, nearest[:-1], np.float32(1)))
    shape = (height, width)
    return _without_holes(FusedDepth(deep.reshape(shape), variance[:-1].reshape(shape), there.reshape(shape)))


def between_cells(
    rays: Rays, earlier: tuple[Cells, Cells], seen: FusedDepth, places: Cells, onward: Motion
) -> FusedDepth:
    """What was carried, to a part of a cell: read between the cells of the earlier frame, on one surface.

    Depth that lands in a cell is that of a place up to half a cell away, and on a floor that is some per cent.

    Args:
        rays, onward: as for `carried`.
        earlier: (h, w) ln depth of the earlier frame at those places, and the share that is known of what that is of.
        seen: what was carried.
        places: (2, h, w) where each cell was in the earlier frame, by what was carried.
    """
    log_depth, known = earlier
    finer = np.log(np.maximum(onward.depths(rays.through(places), np.exp(log_depth)), _LEAST_M))
    near = (known > ON_ONE_SURFACE) & (np.abs(finer - seen.log_depth) < _HALF_A_CELL)
    return replace(seen, log_depth=np.where(near, finer, seen.log_depth))


def _without_holes(maps: FusedDepth) -> FusedDepth:
    """Cells that nothing came to lie on take the mean of their neighbours, where enough of those were luckier."""
    there = maps.known.astype(np.float32)
    share, deep, variance = window_mean(np.stack([there, maps.log_depth * there, maps.variance * there]), 3)
    at_least = np.maximum(share, _HOLE)
    return FusedDepth(
        np.where(maps.known, maps.log_depth, deep / at_least),
        np.where(maps.known, maps.variance, variance / at_least),
        maps.known | (share > _HOLE),
    )
