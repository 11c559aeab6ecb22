from __future__ import annotations

import math

import numpy as np
import pytest

from spaceclip_plugin.errors import ConfigError
from spaceclip_worlds.rover.pose import CAMERA_HEIGHT_M, CAMERA_PITCH_RAD, Action, Pose, wrapped


def test_an_arc_is_what_many_small_straight_moves_come_to() -> None:
    start, action = Pose(0.3, -0.2, 0.4), Action(0.5, -0.9)
    x, y, heading = start.x_m, start.y_m, start.heading_rad
    for _ in range(20_000):
        x, y = x + 0.5 * 1e-4 * math.cos(heading), y + 0.5 * 1e-4 * math.sin(heading)
        heading -= 0.9e-4
    end = start.moved(action, 2.0)
    assert (end.x_m, end.y_m, end.heading_rad) == pytest.approx((x, y, heading), abs=1e-4)


def test_straight_and_turning_on_the_spot() -> None:
    assert Pose(1.0, 2.0, math.pi / 2).moved(Action(0.5, 0.0), 2.0).as_array() == pytest.approx([1.0, 3.0])
    turned = Pose(1.0, 2.0, 0.5).moved(Action(0.0, 1.0), 0.25)
    assert (turned.x_m, turned.y_m, turned.heading_rad) == pytest.approx((1.0, 2.0, 0.75))


def test_the_rovers_frame_has_x_forward_and_y_left() -> None:
    pose = Pose(1.0, 1.0, math.pi / 2)  # facing +y, so left is -x
    assert pose.to_rover(0.0, 3.0) == pytest.approx((2.0, 1.0))
    assert pose.to_world(2.0, 1.0) == pytest.approx((0.0, 3.0))


def test_odometry_says_where_the_rover_is_as_seen_from_its_start() -> None:
    start = Pose(-2.0, 0.5, 0.3)
    moved = start.moved(Action(0.4, 0.6), 1.5)
    from_origin = Pose(0.0, 0.0, 0.0).moved(Action(0.4, 0.6), 1.5)
    seen = moved.relative_to(start)
    assert (seen.x_m, seen.y_m, seen.heading_rad) == pytest.approx(
        (from_origin.x_m, from_origin.y_m, from_origin.heading_rad)
    )


def test_the_camera_looks_ahead_and_down() -> None:
    camera = Pose(1.0, 2.0, 0.7).camera()
    assert camera.position_m == pytest.approx((1.0, 2.0, CAMERA_HEIGHT_M))
    level = math.cos(CAMERA_PITCH_RAD)
    ahead = np.array([level * math.cos(0.7), level * math.sin(0.7), -math.sin(CAMERA_PITCH_RAD)])
    assert camera.rotation[:, 2] == pytest.approx(ahead)
    assert camera.rotation[:, 0] == pytest.approx([math.sin(0.7), -math.cos(0.7), 0.0])  # right of the heading, level


@pytest.mark.parametrize(("angle", "same"), [(3.5, 3.5 - 2 * math.pi), (-7.0, 2 * math.pi - 7.0), (1.0, 1.0)])
def test_angles_wrap(angle: float, same: float) -> None:
    assert wrapped(angle) == pytest.approx(same)


@pytest.mark.parametrize("bad", [(math.nan, 0.0), (0.0, math.inf)])
def test_an_action_is_finite(bad: tuple[float, float]) -> None:
    with pytest.raises(ConfigError, match="finite numbers"):
        Action(*bad)
