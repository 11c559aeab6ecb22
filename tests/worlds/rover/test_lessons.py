from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from spaceclip_worlds.rover.instruction import encode
from spaceclip_worlds.rover.lessons import Frame, frames_of, lesson
from spaceclip_worlds.rover.policy import SEARCH, naive_action
from spaceclip_worlds.rover.world import IMAGE_HW, RoverWorld


@pytest.fixture(scope="module")
def frame() -> Frame:
    world = RoverWorld(3)
    return Frame(world.observe(), world.pose, world.arena.goals)


def test_frames_are_of_a_drive_and_of_places_beside_it() -> None:
    frames = frames_of(11, np.random.default_rng(0))
    drive, scattered = frames[:-8], frames[-8:]
    assert len(drive) > 6
    apart = [np.hypot(*(a.pose.as_array() - b.pose.as_array())) for a, b in itertools.pairwise(drive)]
    assert max(apart) <= 5 * 0.2 * 0.5 + 1e-9
    assert sum(apart) > 2.0
    clear = [RoverWorld(11).arena.clearance_m(one.pose.x_m, one.pose.y_m) for one in scattered]
    assert min(clear) > 0.2
    assert len({one.pose for one in frames}) == len(frames)
    assert all((one.seen.depth_m[(one.seen.solid >= 0)] < 1.3).any() for one in scattered[4:])


def test_a_lesson_says_where_the_named_goal_is_and_what_the_naive_expert_does(frame: Frame) -> None:
    named = set()
    for seed in range(40):
        taught = lesson(frame, np.random.default_rng(seed))
        assert taught.place.sum() == pytest.approx(1.0)
        goal = [i for i, goal in enumerate(frame.goals) if goal.instruction == taught.instruction]
        if not goal or taught.place[0] == 1.0:
            assert taught.told.tolist() == pytest.approx([*(SEARCH.speed_mps, SEARCH.turn_rps), 0.0, 0.0])
            continue
        named.add(goal[0])
        x, y, _ = frame.goals[goal[0]].solid.centre_m
        forward, left = frame.pose.to_rover(x, y)
        action = naive_action((forward, left))
        expected = [action.speed_mps, action.turn_rps, math.atan2(left, forward), math.log(math.hypot(forward, left))]
        assert taught.told == pytest.approx(expected, abs=1e-5)
        rows, columns = np.nonzero(frame.seen.solid == goal[0])
        patches = set((1 + rows // 8 * 14 + columns // 8).tolist())
        assert set(np.flatnonzero(taught.place).tolist()) == patches
        assert taught.image.shape == (*IMAGE_HW, 3)
        encode(taught.instruction)
    assert len(named) >= 2


def test_a_mirrored_lesson_is_the_other_way_round(frame: Frame) -> None:
    for seed in range(12):
        plain = lesson(frame, np.random.default_rng(seed))
        mirrored = lesson(frame, np.random.default_rng(seed), mirrored=True)
        assert mirrored.instruction == plain.instruction
        assert np.array_equal(mirrored.image, plain.image[:, ::-1])
        assert np.array_equal(mirrored.place[1:].reshape(14, 14), plain.place[1:].reshape(14, 14)[:, ::-1])
        assert np.array_equal(mirrored.parts.reshape(14, 14, 4), plain.parts.reshape(14, 14, 4)[:, ::-1])
        if plain.place[0] == 0.0:
            assert mirrored.told == pytest.approx(plain.told * [1, -1, -1, 1], abs=1e-6)


def test_some_questions_are_about_what_is_not_there(frame: Frame) -> None:
    generator = np.random.default_rng(0)
    colours = {goal.colour for goal in frame.goals}
    taught = [lesson(frame, generator) for _ in range(400)]
    absent = [each for each in taught if not colours & set(each.instruction.split())]
    assert 0.1 < len(absent) / len(taught) < 0.2
    assert all(each.place[0] == 1.0 for each in absent)


def test_parts_say_what_each_patch_shows(frame: Frame) -> None:
    parts = lesson(frame, np.random.default_rng(0)).parts.reshape(14, 14, 4)
    assert parts.sum(axis=-1) == pytest.approx(np.ones((14, 14)))
    floor, wall, obstacle, goal = (parts[..., i] for i in range(4))
    assert floor[-1].min() > 0.5  # the lowest row of patches
    assert wall[0].mean() > 0.5
    assert floor[:5].max() == 0.0  # above the horizon
    solid = frame.seen.solid
    assert goal.sum() * 64 == pytest.approx(((solid >= 0) & (solid < len(frame.goals))).sum())
    assert obstacle.sum() * 64 == pytest.approx((solid >= len(frame.goals)).sum())
