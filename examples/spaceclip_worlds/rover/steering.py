"""A depth safety filter: lets a policy drive while the way is free, else turns it to the clearest way, or stops it.

Depth becomes evidence of obstacles in cells of the floor, which odometry keeps in place. The rover is a disc: a heading
is free as far as a disc of its size with a margin can go along it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

import numpy as np

from spaceclip_plugin import DepthMap, Intrinsics
from spaceclip_plugin.errors import ConfigError
from spaceclip_worlds import checks
from spaceclip_worlds.render.scene import Camera
from spaceclip_worlds.rover.evidence import FloorEvidence, FloorPoints, Points
from spaceclip_worlds.rover.pose import STOP, Action, Pose


@dataclass(frozen=True)
class SteeringOptions:
    """What the filter takes for an obstacle, and how it goes around one.

    Attributes:
        body_radius_m: of the rover.
        margin_m: kept between the rover and what it passes.
        low_m, high_m: heights over the floor between which a point is an obstacle.
        reach_m: points farther away are left out.
        cell_m, area_m2, memory: see `FloorEvidence`.
        oldest: host steps that a depth may be old; older depth stops the rover.
        min_valid: share of pixels that must be valid and certain, else the rover is stopped.
        max_uncertainty: standard deviation over depth of a pixel that is certain.
        look_ahead_s: the way must be free for the distance driven in this time.
        heading_s: the policy's turn rate times this is the heading it wants.
        max_turn_rps: turn rate at most.
        step_s: time until the next call.
    """

    body_radius_m: float = 0.18
    margin_m: float = 0.11
    low_m: float = 0.1
    high_m: float = 0.6
    reach_m: float = 1.8
    cell_m: float = 0.05
    area_m2: float = 0.008
    memory: int = 100
    oldest: int = 0
    min_valid: float = 0.9
    max_uncertainty: float = 0.5
    look_ahead_s: float = 1.2
    heading_s: float = 0.5
    max_turn_rps: float = 1.2
    step_s: float = 0.2

    def __post_init__(self) -> None:
        for name in ("body_radius_m", "reach_m", "cell_m", "look_ahead_s", "heading_s", "max_turn_rps", "step_s"):
            checks.real(name, getattr(self, name), 1e-3, 100.0)
        for name in ("margin_m", "low_m", "high_m"):
            checks.real(name, getattr(self, name), 0.0, 100.0)
        checks.real("area_m2", self.area_m2, 1e-6, 1.0)
        checks.real("min_valid", self.min_valid, 0.0, 1.0)
        checks.real("max_uncertainty", self.max_uncertainty, 0.0, 100.0)
        for name, low in (("memory", 1), ("oldest", 0)):
            checks.whole(name, getattr(self, name), low, 10_000)
        if self.low_m >= self.high_m:
            raise ConfigError(f"low_m must be below high_m, got {self.low_m} and {self.high_m}")


class Reason(Enum):
    """What the filter did."""

    FREE = "the way is free: the policy's action as it is"
    DETOUR = "an obstacle is in the way: turned to a clearer heading, slowed down"
    BLOCKED = "no heading is free: stopped, turning"
    NO_DEPTH = "no depth: stopped"
    NOT_VALID = "too few valid and certain pixels: stopped"
    STALE = "the depth is too old: stopped"


@dataclass(frozen=True)
class Steered:
    """The action to take, and why."""

    action: Action
    reason: Reason


class DepthSafetyFilter:
    """Stands between a policy and a rover; one for each episode, or `reset` in between."""

    def __init__(self, options: SteeringOptions | None = None) -> None:
        self.options = SteeringOptions() if options is None else options
        self.reset()

    def reset(self) -> None:
        """Forget every obstacle: another episode begins."""
        options = self.options
        self._evidence = FloorEvidence(
            reach_m=options.reach_m, cell_m=options.cell_m, area_m2=options.area_m2, memory=options.memory
        )
        self._side = 0.0

    def __call__(
        self, action: Action, depth: DepthMap | None, *, intrinsics: Intrinsics, camera: Camera, pose: Pose
    ) -> Steered:
        """What to do instead of, or as, the policy's action.

        Args:
            action: the policy's.
            depth: of the present picture, one image; None where there is none.
            intrinsics: of the camera.
            camera: its pose when the picture was taken, in the frame of odometry; the floor is at height 0.
            pose: of the rover by odometry.

        Raises:
            ConfigError: the depth is of several images.
        """
        options = self.options
        if depth is None:
            return Steered(STOP, Reason.NO_DEPTH)
        if len(depth) != 1:
            raise ConfigError(f"the filter takes the depth of one image, got {len(depth)}; pick one: depth[i]")
        if _certain_share(depth, options.max_uncertainty) < options.min_valid:
            return Steered(STOP, Reason.NOT_VALID)
        if depth.age > options.oldest:
            return Steered(STOP, Reason.STALE)
        points = FloorPoints.of(depth, intrinsics, camera, (options.low_m, options.high_m))
        self._evidence.add(points, camera, pose)
        return self._steer(action, self._evidence.obstacles_m() - pose.as_array(), pose.heading_rad)

    def _steer(self, action: Action, points: Points, heading_rad: float) -> Steered:
        options = self.options
        look_m = options.margin_m + options.look_ahead_s * max(action.speed_mps, 0.0)
        wanted = action.turn_rps * options.heading_s
        offsets = np.deg2rad(np.arange(-110.0, 111.0, 5.0))
        ways = np.concatenate([[0.0, wanted], offsets])
        free_m = np.minimum(self._free_m(points, heading_rad + ways), look_m)
        if min(free_m[0], free_m[1]) >= look_m:
            self._side = 0.0
            return Steered(action, Reason.FREE)
        score = free_m[2:] / look_m - 0.35 * np.abs(offsets - wanted) - 0.1 * np.abs(offsets)
        score += 0.25 * np.sign(offsets) * self._side
        best = int(np.argmax(score))
        turn = float(offsets[best])
        self._side = self._side if turn == 0.0 else math.copysign(1.0, turn)
        turn_rps = min(max(2.5 * turn, -options.max_turn_rps), options.max_turn_rps)
        ahead = float(np.clip((free_m[0] - options.margin_m) / look_m, 0.0, 1.0)) * max(0.0, math.cos(turn))
        slowed = Action(action.speed_mps * ahead, turn_rps)
        if free_m[2 + best] < options.margin_m or not self._clear(points, slowed, heading_rad):
            return Steered(Action(0.0, turn_rps), Reason.BLOCKED)
        return Steered(slowed, Reason.DETOUR)

    def _free_m(self, points: Points, headings_rad: Points) -> Points:
        """How far the rover can go along each heading before it comes within the margin of a point, (N,) metres."""
        along = np.stack([np.cos(headings_rad), np.sin(headings_rad)], axis=1) @ points.T
        aside = np.stack([-np.sin(headings_rad), np.cos(headings_rad)], axis=1) @ points.T
        wide = self.options.body_radius_m + self.options.margin_m
        inside = wide**2 - aside**2
        reached = along - np.sqrt(np.maximum(inside, 0.0))
        hit = (inside > 0.0) & (along > 0.0)
        free_m: Points = np.where(hit, np.maximum(reached, 0.0), np.inf).min(axis=1, initial=np.inf)
        return free_m

    def _clear(self, points: Points, action: Action, heading_rad: float) -> bool:
        """Whether the arc until the next call, and once more, keeps half the margin from every point."""
        start = Pose(0.0, 0.0, heading_rad)
        arc = [start.moved(action, share * self.options.step_s).as_array() for share in (0.5, 1.0, 1.5, 2.0)]
        distance = np.linalg.norm(points[None] - np.stack(arc)[:, None], axis=-1)
        return bool(np.all(distance > self.options.body_radius_m + 0.5 * self.options.margin_m))


def _certain_share(depth: DepthMap, max_uncertainty: float) -> float:
    """Share of the pixels whose depth is valid, and certain where it says how certain it is."""
    certain = depth.valid
    if depth.uncertainty_m is not None:
        certain = certain & (depth.uncertainty_m <= max_uncertainty * depth.depth_m)
    return float(certain.float().mean())
