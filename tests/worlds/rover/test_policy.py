from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from spaceclip_plugin import attach_depth_head
from spaceclip_plugin._digest import module_digest
from spaceclip_plugin.errors import ConfigError
from spaceclip_plugin.towers.registry import find_tower
from spaceclip_worlds.rover.embedded import load_head, load_policy
from spaceclip_worlds.rover.instruction import COLOURS, SHAPES, encode, instruction_for
from spaceclip_worlds.rover.policy import IN_SIGHT, SEARCH, RoverPolicy, naive_action, to_pixels
from spaceclip_worlds.rover.pose import Pose, wrapped
from spaceclip_worlds.rover.world import Observation, RoverWorld

SEEDS = range(500, 512)


@pytest.fixture(scope="module")
def policy() -> RoverPolicy:
    return load_policy()


@pytest.fixture(scope="module")
def starts() -> list[tuple[RoverWorld, Observation]]:
    worlds = [RoverWorld(seed) for seed in SEEDS]
    return [(world, world.observe()) for world in worlds]


def bearing_rad(world: RoverWorld, goal: int = 0) -> float:
    x, y, _ = world.arena.goals[goal].solid.centre_m
    forward, left = world.pose.to_rover(x, y)
    return math.atan2(left, forward)


def test_the_siglip_adapter_finds_its_tower(policy: RoverPolicy) -> None:
    spec = find_tower(policy).spec
    assert (spec.adapter, spec.width, spec.blocks, spec.patch_size, spec.image_hw) == ("siglip", 144, 5, 8, (112, 112))
    assert spec.path.startswith("tower")


def test_it_is_frozen_and_in_eval_mode(policy: RoverPolicy) -> None:
    assert not policy.training
    assert not any(parameter.requires_grad for parameter in policy.parameters())


def test_it_heads_for_the_named_goal_when_that_is_in_sight(
    policy: RoverPolicy, starts: list[tuple[RoverWorld, Observation]]
) -> None:
    for world, seen in starts:
        policy.reset()
        action = policy.select_action(seen)
        assert action.speed_mps > 0.3
        assert action.turn_rps == pytest.approx(np.clip(2.0 * bearing_rad(world), -1.2, 1.2), abs=0.25)


def test_the_instruction_decides_which_goal(policy: RoverPolicy, starts: list[tuple[RoverWorld, Observation]]) -> None:
    checked = 0
    for world, seen in starts:
        for number, goal in enumerate(world.arena.goals):
            if (seen.solid == number).sum() < 40:
                continue
            output = policy(to_pixels([seen.image]), torch.tensor([encode(goal.instruction)]))
            forward, left = output.goal_m[0].tolist()
            assert float(output.in_sight[0]) > IN_SIGHT
            assert abs(wrapped(math.atan2(left, forward) - bearing_rad(world, number))) < math.radians(6.0)
            checked += 1
    assert checked > 20


def test_what_is_not_there_is_not_seen(policy: RoverPolicy, starts: list[tuple[RoverWorld, Observation]]) -> None:
    for world, seen in starts:
        present = {goal.colour for goal in world.arena.goals}
        for colour in set(COLOURS) - present:
            policy.reset()
            elsewhere = dataclasses.replace(seen, instruction=instruction_for(colour, SHAPES[0]))
            assert policy.select_action(elsewhere) == SEARCH


def test_it_remembers_where_the_goal_was_by_odometry(
    policy: RoverPolicy, starts: list[tuple[RoverWorld, Observation]]
) -> None:
    world, seen = starts[0]
    x, y, _ = world.arena.goals[0].solid.centre_m
    looked, turned = Pose(0.4, -0.3, 0.9), Pose(0.9, 0.2, 2.5)  # seen from one place, hidden from another
    goal = turned.to_rover(*looked.to_world(*world.pose.to_rover(x, y)))
    hidden = dataclasses.replace(seen, pose=turned, image=np.full_like(seen.image, 128))
    policy.reset()
    policy.select_action(dataclasses.replace(seen, pose=looked))
    action, wanted = policy.select_action(hidden), naive_action(goal)
    assert action.turn_rps == pytest.approx(wanted.turn_rps, abs=0.3)
    assert action.turn_rps * math.atan2(goal[1], goal[0]) > 0.0
    policy.reset()
    assert policy.select_action(hidden) == SEARCH


def test_where_the_goal_should_be_but_is_not_it_searches_and_forgets(policy: RoverPolicy) -> None:
    world = RoverWorld(SEEDS[0])
    seen = world.observe()
    policy.reset()
    policy.select_action(seen)
    x, y, _ = world.arena.goals[0].solid.centre_m
    hidden = dataclasses.replace(seen, image=np.full_like(seen.image, 128))
    assert policy.select_action(hidden) != SEARCH
    there = Pose(*world.arena.start.to_rover(x, y), 0.0)
    assert policy.select_action(dataclasses.replace(hidden, pose=there)) == SEARCH
    assert policy.select_action(hidden) == SEARCH


def test_attached_or_not_it_acts_the_same_bit_for_bit(starts: list[tuple[RoverWorld, Observation]]) -> None:
    policy = load_policy()
    before = module_digest(policy)
    plain = [policy.select_action(seen) for _, seen in starts[:4]]
    policy.reset()
    with attach_depth_head(policy, load_head()) as depth:
        attached = []
        for _, seen in starts[:4]:
            attached.append(policy.select_action(seen))
            [frame] = depth.read()
            assert frame.depth_m.shape == (1, 112, 112)
            assert frame.trained
        report = depth.verify(lambda: (policy.reset(), policy.select_action(starts[0][1]))[1])
    assert attached == plain
    assert report.identical
    assert report.tensors == 2
    assert module_digest(policy) == before


def test_an_unknown_word_is_refused(policy: RoverPolicy, starts: list[tuple[RoverWorld, Observation]]) -> None:
    with pytest.raises(ConfigError, match="does not know the word 'purple'"):
        policy.select_action(dataclasses.replace(starts[0][1], instruction="drive to the purple ball"))


def test_an_image_of_another_size_is_refused(policy: RoverPolicy, starts: list[tuple[RoverWorld, Observation]]) -> None:
    small = np.zeros((56, 56, 3), np.uint8)
    with pytest.raises(ConfigError, match=r"shape \(112, 112, 3\), got uint8 of shape \(56, 56, 3\)"):
        policy.select_action(dataclasses.replace(starts[0][1], image=small))
    with pytest.raises(ConfigError, match="got float32"):
        to_pixels([np.zeros((112, 112, 3), np.float32)])  # type: ignore[list-item]


class TestNaiveAction:
    def test_it_turns_towards_the_goal_and_ignores_the_rest(self) -> None:
        assert naive_action((2.0, 0.0)).turn_rps == 0.0
        assert naive_action((2.0, 0.2)).turn_rps == pytest.approx(2.0 * math.atan2(0.2, 2.0))
        assert naive_action((2.0, -0.2)).turn_rps < 0.0
        assert naive_action((0.0, 1.0)).turn_rps == 1.2

    def test_it_slows_down_close_to_the_goal_and_for_turns(self) -> None:
        assert naive_action((3.0, 0.0)).speed_mps == 0.5
        assert 0.1 < naive_action((0.8, 0.0)).speed_mps < 0.3
        assert naive_action((0.3, 0.0)).speed_mps == 0.1
        assert naive_action((1.5, 1.5)).speed_mps == pytest.approx(0.5 * math.cos(math.pi / 4))
        assert naive_action((-1.0, 0.1)).speed_mps == 0.0
