"""Joint angles of the arm for a tool that points straight down, in closed form.

The arm: a turntable at the origin, a shoulder above it, an elbow, a wrist that bends and a wrist that turns. World
frame: z up, metres, the table top at height 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

SHOULDER_HEIGHT_M = 0.25
UPPER_ARM_M, FOREARM_M = 0.34, 0.30
HAND_M = 0.16
"""From the wrist's axis to the tool centre, between the fingertips."""
_REACH = 0.999
_MIN_REACH_M = 0.12


@dataclass(frozen=True)
class JointAngles:
    """What the five joints are set to, radians: 0 everywhere is an arm that points straight up."""

    turn_rad: float
    shoulder_rad: float
    elbow_rad: float
    bend_rad: float
    roll_rad: float

    def as_tuple(self) -> tuple[float, float, float, float, float]:
        """From the table upwards."""
        return (self.turn_rad, self.shoulder_rad, self.elbow_rad, self.bend_rad, self.roll_rad)


def joint_angles(tool_m: tuple[float, float, float], *, roll_rad: float = 0.0) -> JointAngles:
    """Angles that bring the tool centre to a point, the hand pointing down and the elbow up.

    A point out of reach is approached along the line from the shoulder, as far as the arm goes.

    Args:
        tool_m: x, y, z in the world.
        roll_rad: of the hand about its axis; 0 opens the fingers at right angles to the arm.
    """
    x_m, y_m, z_m = tool_m
    out_m, up_m = math.hypot(x_m, y_m), z_m + HAND_M - SHOULDER_HEIGHT_M
    distance_m = max(math.hypot(out_m, up_m), 1e-9)
    farthest_m = _REACH * (UPPER_ARM_M + FOREARM_M)
    reached_m = min(max(distance_m, _MIN_REACH_M), farthest_m)
    cos_elbow = (reached_m**2 - UPPER_ARM_M**2 - FOREARM_M**2) / (2.0 * UPPER_ARM_M * FOREARM_M)
    elbow_rad = math.acos(min(max(cos_elbow, -1.0), 1.0))
    raised_rad = math.atan2(FOREARM_M * math.sin(elbow_rad), UPPER_ARM_M + FOREARM_M * math.cos(elbow_rad))
    shoulder_rad = math.atan2(out_m, up_m) - raised_rad
    bend_rad = math.pi - shoulder_rad - elbow_rad
    return JointAngles(math.atan2(y_m, x_m), shoulder_rad, elbow_rad, bend_rad, roll_rad)
