from __future__ import annotations

import math

import pytest

from spaceclip_worlds.arm.kinematics import (
    FOREARM_M,
    HAND_M,
    SHOULDER_HEIGHT_M,
    UPPER_ARM_M,
    JointAngles,
    joint_angles,
)


def tool_of(angles: JointAngles) -> tuple[float, float, float]:
    """Where the tool is, link after link."""
    lean, out, up = 0.0, 0.0, SHOULDER_HEIGHT_M
    for joint, length in (
        (angles.shoulder_rad, UPPER_ARM_M),
        (angles.elbow_rad, FOREARM_M),
        (angles.bend_rad, HAND_M),
    ):
        lean += joint
        out, up = out + length * math.sin(lean), up + length * math.cos(lean)
    return (out * math.cos(angles.turn_rad), out * math.sin(angles.turn_rad), up)


@pytest.mark.parametrize("tool_m", [(0.4, 0.1, 0.02), (0.3, -0.2, 0.3), (0.5, 0.0, 0.05), (-0.2, 0.35, 0.15)])
def test_the_tool_comes_to_the_point_and_points_down(tool_m: tuple[float, float, float]) -> None:
    angles = joint_angles(tool_m, roll_rad=0.3)
    assert tool_of(angles) == pytest.approx(tool_m, abs=1e-9)
    assert angles.shoulder_rad + angles.elbow_rad + angles.bend_rad == pytest.approx(math.pi)
    assert angles.elbow_rad > 0.0
    assert angles.roll_rad == 0.3
    assert angles.as_tuple() == (angles.turn_rad, angles.shoulder_rad, angles.elbow_rad, angles.bend_rad, 0.3)


def test_what_is_out_of_reach_is_approached() -> None:
    x, y, z = tool_of(joint_angles((3.0, 4.0, SHOULDER_HEIGHT_M - HAND_M)))
    assert math.atan2(y, x) == pytest.approx(math.atan2(4.0, 3.0))
    assert math.hypot(x, y) == pytest.approx(0.999 * (UPPER_ARM_M + FOREARM_M))
    assert z == pytest.approx(SHOULDER_HEIGHT_M - HAND_M)
    near = tool_of(joint_angles((0.01, 0.0, SHOULDER_HEIGHT_M - HAND_M)))
    assert near[0] == pytest.approx(0.12)
