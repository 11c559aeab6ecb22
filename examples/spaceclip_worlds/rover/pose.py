"""Where a rover is on the floor, how it moves, and what its camera's pose is."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from spaceclip_plugin.errors import ConfigError
from spaceclip_worlds.render.scene import Camera

CAMERA_HEIGHT_M = 0.35
CAMERA_PITCH_RAD = math.radians(10.0)
"""How far the camera looks down."""
FOVY_RAD = math.radians(70.0)
_STRAIGHT_RPS = 1e-9


@dataclass(frozen=True)
class Action:
    """What a rover is told to do until the next step.

    Attributes:
        speed_mps: forward speed in metres per second.
        turn_rps: turn rate in radians per second, counter-clockwise.

    Raises:
        ConfigError: one of them is not finite.
    """

    speed_mps: float
    turn_rps: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.speed_mps) and math.isfinite(self.turn_rps)):
            raise ConfigError(f"an action needs finite numbers, got {self.speed_mps} m/s and {self.turn_rps} rad/s")


STOP = Action(0.0, 0.0)


@dataclass(frozen=True)
class Pose:
    """Position and heading on the floor.

    Attributes:
        x_m, y_m: in metres.
        heading_rad: counter-clockwise from the x axis.
    """

    x_m: float
    y_m: float
    heading_rad: float

    def moved(self, action: Action, seconds: float) -> Pose:
        """After driving an arc: constant speed and turn rate for `seconds`."""
        turn = action.turn_rps * seconds
        if abs(action.turn_rps) < _STRAIGHT_RPS:
            along, aside = action.speed_mps * seconds, 0.0
        else:
            radius = action.speed_mps / action.turn_rps
            along, aside = radius * math.sin(turn), radius * (1.0 - math.cos(turn))
        x_m, y_m = self.to_world(along, aside)
        return Pose(x_m, y_m, self.heading_rad + turn)

    def to_world(self, forward_m: float, left_m: float) -> tuple[float, float]:
        """A point of the rover's own frame, (x, y) in metres."""
        cos, sin = math.cos(self.heading_rad), math.sin(self.heading_rad)
        return self.x_m + cos * forward_m - sin * left_m, self.y_m + sin * forward_m + cos * left_m

    def to_rover(self, x_m: float, y_m: float) -> tuple[float, float]:
        """A point of the floor in the rover's own frame, (forward, left) in metres."""
        cos, sin = math.cos(self.heading_rad), math.sin(self.heading_rad)
        x, y = x_m - self.x_m, y_m - self.y_m
        return cos * x + sin * y, cos * y - sin * x

    def relative_to(self, origin: Pose) -> Pose:
        """This pose seen from another: what odometry that started at `origin` would say."""
        return Pose(*origin.to_rover(self.x_m, self.y_m), self.heading_rad - origin.heading_rad)

    def camera(self) -> Camera:
        """The rover's camera, above its centre, looking ahead and slightly down."""
        ahead = self.to_world(math.cos(CAMERA_PITCH_RAD), 0.0)
        target = (*ahead, CAMERA_HEIGHT_M - math.sin(CAMERA_PITCH_RAD))
        return Camera.looking_at((self.x_m, self.y_m, CAMERA_HEIGHT_M), target, fovy_rad=FOVY_RAD)

    def as_array(self) -> npt.NDArray[np.float64]:
        """(2,) x and y in metres."""
        return np.array([self.x_m, self.y_m])


def wrapped(angle_rad: float) -> float:
    """The same angle between -pi and pi."""
    return math.remainder(angle_rad, 2.0 * math.pi)
