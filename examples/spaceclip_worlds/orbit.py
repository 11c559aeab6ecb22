"""A camera that is carried round what it looks at: slowly, smoothly and never quite still."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from spaceclip_worlds.render.scene import rotation_about

Pose = npt.NDArray[np.float64]

_SWING_RAD, _SWING_FRAMES = math.radians(12.0), 80
_SWAY_M, _SWAY_RAD = 0.01, math.radians(0.7)
_SWAY_FRAMES = (31, 37, 43, 53, 59, 61)  # no two have a common divisor: the path does not come round again
_X, _Y, _Z = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)


@dataclass(frozen=True, eq=False)
class Orbit:
    """Where the camera is, frame by frame.

    It swings by 12 degrees to either side about an upright axis, once in 80 frames, and sways by 1 cm along each of its
    own axes and by 0.7 degrees about them. A metre from the axis that is some 1 cm and 0.6 degrees a frame.

    Attributes:
        start: (4, 4) camera to world in the middle of the swing; world axes z up.
        pivot_m: (3,) a point of the axis.
        phases_rad: (7,) where in its period each motion begins: the swing, then sways along and about x, y and z.
    """

    start: Pose
    pivot_m: npt.NDArray[np.float64]
    phases_rad: npt.NDArray[np.float64]

    @classmethod
    def over(cls, start: Pose, height_m: float, *, generator: np.random.Generator) -> Orbit:
        """Round the point of the plane z = `height_m` that a camera above it looks down at."""
        position, forward = start[:3, 3], start[:3, 2]
        pivot = position + (height_m - position[2]) / forward[2] * forward
        return cls(start, pivot, generator.uniform(0.0, 2.0 * math.pi, 1 + len(_SWAY_FRAMES)))

    def pose(self, number: int) -> Pose:
        """(4, 4) camera to world in frame `number`."""
        turns = 2.0 * math.pi * number / np.array((_SWING_FRAMES, *_SWAY_FRAMES))
        swing, *sways = np.sin(turns + self.phases_rad).tolist()
        swung = np.eye(4)
        swung[:3, :3] = rotation_about(_Z, _SWING_RAD * swing)
        swung[:3, 3] = self.pivot_m - swung[:3, :3] @ self.pivot_m
        swayed = np.eye(4)
        swayed[:3, 3] = _SWAY_M * np.array(sways[:3])
        for axis, sway in zip((_X, _Y, _Z), sways[3:], strict=True):
            swayed[:3, :3] = swayed[:3, :3] @ rotation_about(axis, _SWAY_RAD * sway)
        pose: Pose = swung @ self.start @ swayed
        return pose
