from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from spaceclip_plugin.depth.depth_map import DepthMap
from spaceclip_plugin.errors import ConfigError
from spaceclip_worlds.render.raycaster import render
from spaceclip_worlds.render.scene import Light, Material, Primitive, Room, Scene, Shape
from spaceclip_worlds.rover.pose import STOP, Action, Pose
from spaceclip_worlds.rover.steering import DepthSafetyFilter, Reason, Steered, SteeringOptions

GREY = Material((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
ROOM = Room((-9.0, -9.0, 0.0), (9.0, 9.0, 3.0), GREY, GREY, GREY)
AHEAD = Action(0.5, 0.0)
START = Pose(0.0, 0.0, 0.0)


def box(x_m: float, y_m: float, *, half_m: float = 0.2, height_m: float = 0.5) -> Primitive:
    return Primitive(Shape.BOX, (x_m, y_m, 0.5 * height_m), (half_m, half_m, 0.5 * height_m), GREY)


def steer(
    guard: DepthSafetyFilter,
    action: Action,
    *obstacles: Primitive,
    pose: Pose = START,
    scale: float = 1.0,
    age: int = 0,
    valid: object = True,
    uncertainty: float | None = None,
) -> Steered:
    """The filter's word on the true depth of a large room with these obstacles."""
    camera = pose.camera()
    rendering = render(Scene(ROOM, camera, Light((0.0, 0.0, 2.9)), obstacles), (112, 112), shadows=False)
    depth = torch.from_numpy(rendering.depth_m)[None] * scale
    known = torch.zeros_like(depth, dtype=torch.bool)
    known[:] = torch.as_tensor(valid)
    told = None if uncertainty is None else uncertainty * depth
    depth_map = DepthMap(
        depth, known, camera=None, frame=0, image_hw=(112, 112), trained=True, age=age, uncertainty_m=told
    )
    return guard(action, depth_map, intrinsics=rendering.intrinsics, camera=camera, pose=pose)


@pytest.mark.parametrize("action", [AHEAD, Action(0.31, 0.7), Action(0.2, -1.1), Action(0.0, 0.8)])
def test_a_free_way_keeps_the_policys_action_bit_for_bit(action: Action) -> None:
    steered = steer(DepthSafetyFilter(), action)
    assert steered == Steered(action, Reason.FREE)
    assert steered.action is action


def test_what_is_beside_or_far_ahead_is_not_in_the_way() -> None:
    for obstacle in (box(1.0, 0.6), box(1.0, -0.6), box(2.5, 0.0)):
        assert steer(DepthSafetyFilter(), AHEAD, obstacle).reason is Reason.FREE


@pytest.mark.parametrize("side", [-1.0, 1.0])
def test_an_obstacle_ahead_turns_the_rover_to_the_nearer_free_side_and_slows_it(side: float) -> None:
    steered = steer(DepthSafetyFilter(), AHEAD, box(0.85, side * 0.1))
    assert steered.reason is Reason.DETOUR
    assert steered.action.turn_rps * side < -0.5
    assert 0.0 <= steered.action.speed_mps < 0.4


def test_the_nearer_the_obstacle_the_slower() -> None:
    speeds = [steer(DepthSafetyFilter(), AHEAD, box(x, 0.05)).action.speed_mps for x in (0.9, 0.75, 0.6)]
    assert speeds == sorted(speeds, reverse=True)
    assert speeds[0] > speeds[2]


def test_close_before_an_obstacle_it_stands_and_turns() -> None:
    steered = steer(DepthSafetyFilter(), AHEAD, box(0.56, 0.0, half_m=0.25))  # 13 cm before its face
    assert steered.action.speed_mps < 0.02
    assert abs(steered.action.turn_rps) > 0.5


def test_behind_bars_it_stands() -> None:
    fence = [box(0.45 * math.cos(a), 0.45 * math.sin(a), half_m=0.1) for a in np.arange(-3.1, 3.1, 0.4)]
    guard = DepthSafetyFilter()
    for heading in np.arange(0.0, 2.0 * math.pi, 0.5):  # look around
        steered = steer(guard, AHEAD, *fence, pose=Pose(0.0, 0.0, float(heading)))
    assert steered.reason is Reason.BLOCKED
    assert steered.action.speed_mps == 0.0


def test_a_wanted_turn_into_an_obstacle_is_refused_too() -> None:
    obstacle = box(0.7, 0.55)
    assert steer(DepthSafetyFilter(), AHEAD, obstacle).reason is Reason.FREE
    turned = steer(DepthSafetyFilter(), Action(0.5, 1.2), obstacle)
    assert turned.reason is Reason.DETOUR
    assert turned.action.turn_rps < 1.0


SEEN, AWAY = Pose(0.0, 0.0, 0.97), Pose(0.0, 0.0, 1.92)
BESIDE = box(0.7 * math.cos(0.97), 0.7 * math.sin(0.97), half_m=0.15)  # in the picture from SEEN, not from AWAY
BACK = Action(0.5, -1.2)  # from AWAY, a turn towards it


def test_what_left_the_picture_is_remembered_for_a_while() -> None:
    guard = DepthSafetyFilter(SteeringOptions(memory=3))
    assert steer(guard, AHEAD, BESIDE, pose=SEEN).reason is Reason.DETOUR
    reasons = [steer(guard, BACK, BESIDE, pose=AWAY).reason for _ in range(3)]
    assert reasons == [Reason.DETOUR, Reason.DETOUR, Reason.FREE]


def test_a_reset_forgets_obstacles() -> None:
    guard = DepthSafetyFilter()
    steer(guard, AHEAD, BESIDE, pose=SEEN)
    guard.reset()
    assert steer(guard, BACK, BESIDE, pose=AWAY).reason is Reason.FREE


def test_memory_is_aligned_by_odometry() -> None:
    guard = DepthSafetyFilter()
    steer(guard, AHEAD, BESIDE, pose=SEEN)
    assert steer(guard, BACK, BESIDE, pose=Pose(-1.5, 0.5, 1.92)).reason is Reason.FREE
    far = box(2.7, -1.3)
    assert steer(DepthSafetyFilter(), AHEAD, far, pose=Pose(2.0, -1.3, 0.0)).reason is Reason.DETOUR


def test_what_is_behind_is_not_in_the_way() -> None:
    guard = DepthSafetyFilter()
    assert steer(guard, AHEAD, box(0.7, 0.0)).reason is Reason.DETOUR
    assert steer(guard, AHEAD, pose=Pose(0.0, 0.0, math.pi)).reason is Reason.FREE


def test_a_turn_away_from_an_obstacle_that_is_still_ahead_is_slowed() -> None:
    steered = steer(DepthSafetyFilter(), Action(0.5, 1.2), box(0.75, -0.2))
    assert steered.reason is Reason.DETOUR
    assert steered.action.turn_rps > 0.5
    assert steered.action.speed_mps < 0.4


@pytest.mark.parametrize("side", [-1.0, 1.0])
def test_it_passes_on_the_side_the_policy_wants(side: float) -> None:
    assert steer(DepthSafetyFilter(), Action(0.5, side), box(0.75, 0.0)).action.turn_rps * side > 0.5


def test_no_depth_stops() -> None:
    camera, guard = START.camera(), DepthSafetyFilter()
    rendering = render(Scene(ROOM, camera, Light((0.0, 0.0, 2.9))), (8, 8))
    steered = guard(AHEAD, None, intrinsics=rendering.intrinsics, camera=camera, pose=START)
    assert steered == Steered(STOP, Reason.NO_DEPTH)


def test_depth_that_is_not_valid_stops() -> None:
    assert steer(DepthSafetyFilter(), AHEAD, valid=False) == Steered(STOP, Reason.NOT_VALID)
    mostly = torch.ones(112, 112, dtype=torch.bool)
    mostly[:, :10] = False
    assert steer(DepthSafetyFilter(), AHEAD, valid=mostly).reason is Reason.FREE
    mostly[:, :13] = False
    assert steer(DepthSafetyFilter(), AHEAD, valid=mostly) == Steered(STOP, Reason.NOT_VALID)


def test_depth_that_is_uncertain_stops() -> None:
    assert steer(DepthSafetyFilter(), AHEAD, uncertainty=0.1).reason is Reason.FREE
    assert steer(DepthSafetyFilter(), AHEAD, uncertainty=0.6) == Steered(STOP, Reason.NOT_VALID)
    bold = DepthSafetyFilter(SteeringOptions(max_uncertainty=1.0))
    assert steer(bold, AHEAD, uncertainty=0.6).reason is Reason.FREE


def test_pixels_that_are_not_valid_are_no_obstacles() -> None:
    half = torch.ones(112, 112, dtype=torch.bool)
    half[:, 28:84] = False  # where the obstacle is seen
    options = SteeringOptions(min_valid=0.4)
    assert steer(DepthSafetyFilter(options), AHEAD, box(0.8, 0.0), valid=half).reason is Reason.FREE
    assert steer(DepthSafetyFilter(options), AHEAD, box(0.8, 0.0)).reason is Reason.DETOUR


def test_old_depth_stops() -> None:
    assert steer(DepthSafetyFilter(), AHEAD, age=1) == Steered(STOP, Reason.STALE)
    patient = DepthSafetyFilter(SteeringOptions(oldest=2))
    assert steer(patient, AHEAD, age=2).reason is Reason.FREE
    assert steer(patient, AHEAD, age=3) == Steered(STOP, Reason.STALE)


def test_nan_never_reaches_the_filter() -> None:
    depth = torch.full((1, 112, 112), math.nan)
    with pytest.raises(ConfigError, match="NaN or infinite"):
        DepthMap(depth, torch.ones_like(depth, dtype=torch.bool), None, 0, (112, 112), True)
    with pytest.raises(ConfigError, match="finite"):
        Action(math.nan, 0.0)


def test_the_depth_of_several_images_is_refused() -> None:
    depth = torch.ones(2, 8, 8)
    maps = DepthMap(depth, torch.ones_like(depth, dtype=torch.bool), None, 0, (8, 8), True)
    rendering = render(Scene(ROOM, START.camera(), Light((0.0, 0.0, 2.9))), (8, 8))
    with pytest.raises(ConfigError, match=r"one image, got 2; pick one: depth\[i\]"):
        DepthSafetyFilter()(AHEAD, maps, intrinsics=rendering.intrinsics, camera=START.camera(), pose=START)


@pytest.mark.parametrize("scale", [0.85, 1.15])
def test_depth_of_a_wrong_scale_still_turns_it(scale: float) -> None:
    assert steer(DepthSafetyFilter(), AHEAD, box(0.75, 0.05), scale=scale).reason is Reason.DETOUR
    assert steer(DepthSafetyFilter(), AHEAD, scale=scale).reason is Reason.FREE  # the floor is no obstacle


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("area_m2", 0.0),
        ("max_uncertainty", -1.0),
        ("margin_m", -0.1),
        ("reach_m", math.inf),
        ("memory", 0),
        ("oldest", -1),
        ("min_valid", 1.5),
    ],
)
def test_options_are_bounded(field: str, value: float) -> None:
    with pytest.raises(ConfigError, match=field):
        dataclasses.replace(SteeringOptions(), **{field: value})
    with pytest.raises(ConfigError, match="low_m must be below high_m"):
        SteeringOptions(low_m=0.7)
