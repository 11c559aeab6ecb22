"""What pictures tell of the floor around a rover: how much speaks for an obstacle in each cell, and how much for none.

An occupancy grid (Moravec and Elfes, 1985) in the frame of odometry. Points of an obstacle's height speak for one, and
floor that is seen in front of the first of them against; what no picture shows any more fades.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from spaceclip_plugin import DepthMap, Intrinsics
from spaceclip_worlds.render.scene import Camera
from spaceclip_worlds.rover.pose import Pose

Points = npt.NDArray[np.float64]
_DIRECTIONS = 180  # around the camera
_AGAINST = 0.6  # what one picture of free floor says, where one of an obstacle says 1
_MOST, _LEAST = 4.0, -0.5  # so little against, that one picture of an obstacle outweighs it
_NOTHING = 1e-9  # what rounding leaves of evidence that has faded
_HIDES = 0.1  # of an obstacle, from which on floor behind it counts for nothing
_SURE = 0.5  # standard deviations by which depth may be too great, where floor is said to be free


@dataclass(frozen=True, eq=False)
class FloorPoints:
    """The points of one picture over the floor, (N,) each.

    Attributes:
        x_m, y_m: in the frame of odometry.
        range_m: over the floor from the camera.
        near_m: the same, nearer by as much as depth is uncertain.
        area_m2: of the surface that its pixel covers, as if that faced the camera.
        direction: index of the direction from the camera, of `_DIRECTIONS`.
        tall: whether a point is of an obstacle's height.
        floor: whether it is lower than that.
    """

    x_m: Points
    y_m: Points
    range_m: Points
    near_m: Points
    area_m2: Points
    direction: npt.NDArray[np.intp]
    tall: npt.NDArray[np.bool_]
    floor: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, depth: DepthMap, intrinsics: Intrinsics, camera: Camera, heights_m: tuple[float, float]) -> FloorPoints:
        """Where depth of one image puts its valid pixels.

        Args:
            depth: of one image.
            intrinsics, camera: of the camera that took it; the floor is at height 0.
            heights_m: over the floor, between which a point is an obstacle.
        """
        valid = depth.valid[0].cpu().numpy()
        points = depth.points(intrinsics)[0].cpu().numpy()[valid].astype(np.float64)
        height, width = valid.shape
        lens = depth.tower_intrinsics(intrinsics).resized((height, width))
        area_m2 = points[:, 2] ** 2 / (lens.fx_px * lens.fy_px)
        x_m, y_m, up_m = (points @ camera.rotation.T).T
        range_m, height_m = np.hypot(x_m, y_m), up_m + camera.position_m[2]
        near_m = range_m
        if depth.uncertainty_m is not None:
            share = (depth.uncertainty_m / depth.depth_m.clamp_min(1e-6))[0].cpu().numpy()[valid]
            near_m = range_m * np.maximum(1.0 - _SURE * share, 0.0)
        return cls(
            x_m=x_m + camera.position_m[0],
            y_m=y_m + camera.position_m[1],
            range_m=range_m,
            near_m=near_m,
            area_m2=area_m2,
            direction=_direction(x_m, y_m),
            tall=(height_m > heights_m[0]) & (height_m < heights_m[1]),
            floor=height_m <= heights_m[0],
        )


class FloorEvidence:
    """Evidence in the cells of a square window of the floor, which goes along with the rover."""

    def __init__(self, *, reach_m: float, cell_m: float, area_m2: float, memory: int) -> None:
        """Nothing is known at first.

        Args:
            reach_m: from the rover to the nearer edges of the window; points farther away are left out.
            cell_m: side of a cell.
            area_m2: of a surface of an obstacle's height that one picture must show over a cell to be sure of it; less
                says as much less. Where depth passes from an obstacle to what is behind it, there is little.
            memory: pictures for which the evidence of one lasts; that of several that agree lasts longer.
        """
        self._reach_m, self._cell_m, self._area_m2, self._memory = reach_m, cell_m, area_m2, memory
        self._half = int(np.ceil(reach_m / cell_m))
        self._evidence = np.zeros((2 * self._half + 1,) * 2)
        self._corner = np.zeros(2, np.int64)

    def add(self, points: FloorPoints, camera: Camera, pose: Pose) -> None:
        """Take in one picture, and forget a little of those before.

        Args:
            points: of the picture.
            camera: that took it.
            pose: of the rover by odometry, in the middle of the window from now on.
        """
        self._follow(pose)
        faded = np.maximum(np.abs(self._evidence) - 1.0 / self._memory, 0.0)
        self._evidence = np.copysign(faded, self._evidence)
        seen, hiding = self._obstacles_seen(points)
        self._evidence[self._free_floor_seen(points, hiding, camera) & (seen < _HIDES)] -= _AGAINST
        self._evidence += seen
        np.clip(self._evidence, _LEAST, _MOST, out=self._evidence)

    def obstacles_m(self) -> Points:
        """(N, 2) centres of the cells where more speaks for an obstacle than against, in the frame of odometry."""
        cells = np.argwhere(self._evidence > _NOTHING).astype(np.float64)
        return (cells + self._corner + 0.5) * self._cell_m

    def _follow(self, pose: Pose) -> None:
        """Bring the rover's cell into the middle; what leaves the window is forgotten."""
        corner = np.floor(pose.as_array() / self._cell_m).astype(np.int64) - self._half
        moved, side = corner - self._corner, len(self._evidence)
        kept = [slice(max(step, 0), side + min(step, 0)) for step in moved.clip(-side, side).tolist()]
        to = [slice(max(-step, 0), side - max(step, 0)) for step in moved.clip(-side, side).tolist()]
        before, self._evidence = self._evidence, np.zeros_like(self._evidence)
        self._evidence[to[0], to[1]] = before[kept[0], kept[1]]
        self._corner = corner

    def _obstacles_seen(self, points: FloorPoints) -> tuple[Points, npt.NDArray[np.intp]]:
        """How much of an obstacle every cell shows, 0 to 1, and the points that hide floor behind them, as indices."""
        side, near = len(self._evidence), np.flatnonzero(points.tall & (points.range_m < self._reach_m))
        across = np.floor(points.x_m[near] / self._cell_m).astype(np.int64) - self._corner[0]
        along = np.floor(points.y_m[near] / self._cell_m).astype(np.int64) - self._corner[1]
        inside = (across >= 0) & (across < side) & (along >= 0) & (along < side)
        near, cell = near[inside], (across * side + along)[inside]
        area_m2 = np.bincount(cell, points.area_m2[near], side * side)
        seen: Points = np.minimum(area_m2 / self._area_m2, 1.0).reshape(side, side)
        return seen, near[seen.reshape(-1)[cell] >= _HIDES]

    def _free_floor_seen(
        self, points: FloorPoints, hiding: npt.NDArray[np.intp], camera: Camera
    ) -> npt.NDArray[np.bool_]:
        """Cells between the nearest and the farthest floor of their direction, in front of the first obstacle."""
        nearest, farthest, first = np.full(_DIRECTIONS, np.inf), np.zeros(_DIRECTIONS), np.full(_DIRECTIONS, np.inf)
        np.minimum.at(nearest, points.direction[points.floor], points.range_m[points.floor])
        np.maximum.at(farthest, points.direction[points.floor], points.near_m[points.floor])
        np.minimum.at(first, points.direction[hiding], points.near_m[hiding])
        centre = (np.arange(len(self._evidence)) + 0.5) * self._cell_m
        x_m = (centre + self._corner[0] * self._cell_m - camera.position_m[0])[:, None]
        y_m = (centre + self._corner[1] * self._cell_m - camera.position_m[1])[None]
        range_m, direction = np.hypot(x_m, y_m), _direction(x_m, y_m)
        until = np.minimum(farthest, first - self._cell_m)
        free: npt.NDArray[np.bool_] = (range_m >= nearest[direction]) & (range_m < until[direction])
        return free


def _direction(x_m: Points, y_m: Points) -> npt.NDArray[np.intp]:
    turns = np.arctan2(y_m, x_m) / (2.0 * np.pi) + 0.5
    return np.minimum((turns * _DIRECTIONS).astype(np.intp), _DIRECTIONS - 1)
