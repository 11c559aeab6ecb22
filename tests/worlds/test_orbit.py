"""A camera that is carried: rigid, slow, smooth, and its eye on the same thing."""

from __future__ import annotations

import numpy as np
import pytest

from spaceclip_worlds.orbit import Orbit
from spaceclip_worlds.render.scene import Camera

FRAMES = 400


def looking_down() -> np.ndarray:
    """From 0.9 m aside and 0.7 m above a table at a height of 0.1 m."""
    camera = Camera.looking_at((0.9, -0.2, 0.8), (0.0, 0.0, 0.1), fovy_rad=1.0)
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = camera.rotation, camera.position_m
    return pose


@pytest.fixture
def poses() -> np.ndarray:
    orbit = Orbit.over(looking_down(), 0.1, generator=np.random.default_rng(3))
    return np.stack([orbit.pose(number) for number in range(FRAMES)])


def test_it_swings_round_what_it_looks_at() -> None:
    orbit = Orbit.over(looking_down(), 0.1, generator=np.random.default_rng(3))
    np.testing.assert_allclose(orbit.pivot_m, (0.0, 0.0, 0.1), atol=1e-12)


def test_poses_are_rigid(poses: np.ndarray) -> None:
    rotations = poses[:, :3, :3]
    np.testing.assert_allclose(
        rotations @ rotations.transpose(0, 2, 1), np.broadcast_to(np.eye(3), (FRAMES, 3, 3)), atol=1e-12
    )
    np.testing.assert_allclose(np.linalg.det(rotations), 1.0)
    np.testing.assert_array_equal(poses[:, 3], np.broadcast_to([0.0, 0.0, 0.0, 1.0], (FRAMES, 4)))


def test_it_is_never_still_and_never_fast(poses: np.ndarray) -> None:
    steps_m = np.linalg.norm(np.diff(poses[:, :3, 3], axis=0), axis=1)
    between = poses[:-1, :3, :3].transpose(0, 2, 1) @ poses[1:, :3, :3]
    turns_deg = np.degrees(np.arccos(0.5 * (np.trace(between, axis1=1, axis2=2) - 1.0)))
    assert 0.0 < steps_m.min() < steps_m.max() < 0.02
    assert 0.005 < np.median(steps_m) < 0.015
    assert 0.0 < turns_deg.min() < turns_deg.max() < 1.3
    assert 0.4 < np.median(turns_deg) < 0.9


def test_it_moves_smoothly(poses: np.ndarray) -> None:
    assert np.abs(np.diff(poses[:, :3, 3], n=2, axis=0)).max() < 0.002


def test_its_eye_stays_on_the_same_thing(poses: np.ndarray) -> None:
    x, y, z, _ = (np.linalg.inv(poses) @ [0.0, 0.0, 0.1, 1.0]).T
    assert np.degrees(np.arctan2(np.hypot(x, y), z)).max() < 4.0
    np.testing.assert_allclose(np.hypot(np.hypot(x, y), z), np.linalg.norm((0.9, -0.2, 0.7)), atol=0.02)


def test_other_seeds_go_other_ways() -> None:
    one, same, other = (
        Orbit.over(looking_down(), 0.1, generator=np.random.default_rng(seed)).pose(5) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, same)
    assert np.abs(one - other).max() > 0.01
