from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from spaceclip_plugin.depth.camera import back_project
from spaceclip_plugin.errors import ConfigError
from spaceclip_worlds.rover.arena import footprint_distance_m
from spaceclip_worlds.rover.pose import STOP, Action, Pose
from spaceclip_worlds.rover.world import (
    BODY_RADIUS_M,
    IMAGE_HW,
    REACHED_M,
    STEP_S,
    TIMEOUT_S,
    Outcome,
    RoverWorld,
)


def test_the_same_seed_is_the_same_episode() -> None:
    one, other = RoverWorld(5), RoverWorld(6)
    other.step(Action(0.3, 0.2))
    other.reset(5)
    first, second = one.observe(), other.observe()
    assert first.instruction == second.instruction
    assert np.array_equal(first.image, second.image)
    assert np.array_equal(first.depth_m, second.depth_m)
    assert (other.steps, other.time_s, other.outcome) == (0, 0.0, None)
    assert not np.array_equal(first.image, RoverWorld(6).observe().image)


def test_an_observation_is_of_the_stated_shape_and_starts_at_the_origin_of_odometry() -> None:
    seen = RoverWorld(0).observe()
    assert seen.image.shape == (*IMAGE_HW, 3)
    assert seen.image.dtype == np.uint8
    assert seen.depth_m.shape == IMAGE_HW
    assert seen.pose == Pose(0.0, 0.0, 0.0)
    assert seen.intrinsics.fy_px == pytest.approx(56.0 / math.tan(math.radians(35.0)))


def test_the_named_goal_is_in_sight_at_the_start() -> None:
    for seed in range(10):
        world = RoverWorld(seed)
        seen = world.observe()
        assert (seen.solid == 0).sum() >= 20
        goal = world.arena.goals[0]
        assert seen.instruction == f"drive to the {goal.colour} {goal.shape}"


def test_depth_and_camera_put_every_point_onto_what_it_belongs_to() -> None:
    for seed in range(4):
        world = RoverWorld(seed)
        for _ in range(4):
            world.step(Action(0.3, 0.3))
        seen = world.observe()
        rays = back_project(torch.from_numpy(seen.depth_m)[None], seen.intrinsics)[0].numpy().reshape(-1, 3)
        points = rays @ seen.camera.rotation.T + np.array(seen.camera.position_m)  # in the frame of odometry
        for index, solid in enumerate(world.arena.solids[:1] + world.arena.obstacles[:1]):
            number = 0 if index == 0 else len(world.arena.goals)
            shown = points[(seen.solid == number).reshape(-1)]
            for x, y, z in shown[::25]:
                x_m, y_m = world.arena.start.to_world(x, y)
                assert -1e-3 <= z <= 2.0 * solid.half_extents_m[2] + 1e-3
                if solid.shape.value != "ellipsoid" and z < 2.0 * solid.half_extents_m[2] - 1e-3:
                    assert footprint_distance_m(solid, x_m, y_m) == pytest.approx(0.0, abs=2e-3)
                assert footprint_distance_m(solid, x_m, y_m) <= 2e-3
        room = (seen.solid.reshape(-1) == -1) & (points[:, 2] < 0.05)
        placed = [(*world.arena.start.to_world(x, y), z) for x, y, z in points[room]]
        floor = np.array([z for x, y, z in placed if abs(x) < 2.9 and abs(y) < 2.0])  # the rest may be a wall's foot
        assert len(floor) > 500
        assert np.abs(floor).max() < 2e-3


def test_it_drives_as_it_is_told_within_its_limits() -> None:
    world = RoverWorld(0)
    start = world.pose
    world.step(Action(9.0, -9.0))
    expected = start.moved(Action(0.5, -1.2), STEP_S)
    assert dataclasses.astuple(world.pose) == pytest.approx(dataclasses.astuple(expected))
    world.step(Action(-1.0, 0.0))
    assert dataclasses.astuple(world.pose) == pytest.approx(dataclasses.astuple(expected))
    assert (world.steps, world.time_s) == (2, pytest.approx(2 * STEP_S))


def blocker(world: RoverWorld) -> tuple[float, float]:
    x, y, _ = world.arena.obstacles[0].centre_m
    return x, y


def test_driving_straight_at_an_obstacle_ends_where_the_body_touches_it() -> None:
    for seed in range(6):
        world = RoverWorld(seed)
        x, y = blocker(world)
        ahead = math.atan2(y - world.pose.y_m, x - world.pose.x_m)
        world.pose = Pose(world.pose.x_m, world.pose.y_m, ahead)
        while world.outcome is None:
            before = world.clearance_m
            world.step(Action(0.5, 0.0))
            assert world.clearance_m > -1e-9
        assert world.outcome is Outcome.COLLISION
        assert world.clearance_m < 2e-4 < before
        touched = footprint_distance_m(world.arena.obstacles[0], world.pose.x_m, world.pose.y_m)
        assert touched == pytest.approx(BODY_RADIUS_M, abs=2e-4)


def test_nothing_thin_is_driven_through(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spaceclip_worlds.rover.world.STEP_S", 20.0)  # ten metres in one step
    world = RoverWorld(0)
    assert world.step(Action(0.5, 0.0)) is Outcome.COLLISION
    assert world.time_s < 12.0
    assert world.clearance_m > -1e-9


def test_a_collision_costs_only_the_time_until_it() -> None:
    world = RoverWorld(0)
    world.pose = Pose(3.0 - BODY_RADIUS_M - 0.05, -1.9 + BODY_RADIUS_M, 0.0)  # a corner without goals, 5 cm to go
    assert world.step(Action(0.5, 0.0)) is Outcome.COLLISION
    assert world.time_s == pytest.approx(0.1, abs=1e-3)


def test_the_goal_is_reached_at_the_stated_gap_and_another_goal_is_none() -> None:
    world = RoverWorld(1)
    for number, expected in ((0, Outcome.GOAL), (1, None)):
        world.reset(1)
        solid = world.arena.goals[number].solid
        x, y, _ = solid.centre_m
        gap = REACHED_M + 0.05
        world.pose = next(
            Pose(x - reach, y, 0.0)
            for reach in np.arange(0.3, 2.0, 0.001)
            if footprint_distance_m(solid, x - reach, y) >= gap + BODY_RADIUS_M
        )
        assert world.step(STOP) is None
        assert world.step(Action(0.5, 0.0)) is expected


def test_an_episode_times_out_and_is_over() -> None:
    world = RoverWorld(0)
    while world.outcome is None:
        world.step(Action(0.0, 0.5))
    assert world.outcome is Outcome.TIMEOUT
    assert world.steps == round(TIMEOUT_S / STEP_S) == 300
    with pytest.raises(ConfigError, match=r"the episode is over \(timeout\); start another"):
        world.step(STOP)


def test_a_seed_may_come_out_of_an_array() -> None:
    assert np.array_equal(RoverWorld(np.arange(6)[5]).observe().image, RoverWorld(5).observe().image)


@pytest.mark.parametrize("bad", [-1, 1.0, True, "3"])
def test_a_seed_is_a_whole_number(bad: object) -> None:
    with pytest.raises(ConfigError, match="seed of an episode"):
        RoverWorld(bad)  # type: ignore[arg-type]
