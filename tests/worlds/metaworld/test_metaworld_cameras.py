"""Cameras the right way up, and how far they are moved."""

from __future__ import annotations

import math

import numpy as np
import pytest

from spaceclip_worlds.metaworld.cameras import CAMERAS, moved, other_fovy_rad, upright


def hanging() -> np.ndarray:
    """A camera 1 m up that looks along the world's y axis, upside down."""
    pose = np.eye(4)
    pose[:3, :3] = np.array([[-1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
    pose[2, 3] = 1.0
    return pose


def test_a_camera_that_hangs_upside_down_is_turned_about_its_axis() -> None:
    turned = upright("corner", hanging())
    np.testing.assert_array_equal(turned[:3, 2], [0.0, 1.0, 0.0])  # looks where it looked
    np.testing.assert_array_equal(turned[:3, 1], [0.0, 0.0, -1.0])  # its y axis, down, is down
    np.testing.assert_array_equal(turned[:3, 3], [0.0, 0.0, 1.0])
    assert np.linalg.det(turned[:3, :3]) == pytest.approx(1.0)


def test_a_camera_that_stands_is_left_alone() -> None:
    np.testing.assert_array_equal(upright("topview", hanging()), hanging())


def test_corner2_stands_where_lerobot_puts_it() -> None:
    np.testing.assert_array_equal(upright("corner2", hanging())[:3, 3], [0.75, 0.075, 0.7])


@pytest.mark.parametrize("name", CAMERAS)
def test_a_moved_camera_is_a_rigid_one_near_by(name: str) -> None:
    generator = np.random.default_rng(0)
    poses = [moved(name, hanging(), generator) for _ in range(200)]
    for pose in poses:
        np.testing.assert_allclose(pose[:3, :3] @ pose[:3, :3].T, np.eye(3), atol=1e-12)
        np.testing.assert_array_equal(pose[3], [0.0, 0.0, 0.0, 1.0])
    offsets = np.array([pose[:3, 3] - hanging()[:3, 3] for pose in poses])
    np.testing.assert_allclose(offsets.std(axis=0), CAMERAS[name].play_m, rtol=0.2)
    turns = np.array([np.arccos(pose[:3, 2] @ hanging()[:3, 2]) for pose in poses])
    assert math.radians(2.0) < turns.mean() < math.radians(6.0)


def test_lenses_differ_by_up_to_a_fifth() -> None:
    generator = np.random.default_rng(0)
    focal = [0.5 / math.tan(0.5 * other_fovy_rad(1.0, generator)) for _ in range(300)]
    ratio = np.array(focal) * math.tan(0.5) / 0.5
    assert 1 / 1.2 <= ratio.min() < 0.86
    assert 1.13 < ratio.max() <= 1 / 0.85
