"""What the rover's policy and depth head learn from: frames of many arenas, and questions with their answers."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from spaceclip_plugin.data import DepthSample
from spaceclip_plugin.depth import back_project
from spaceclip_worlds.rover.arena import Goal
from spaceclip_worlds.rover.episode import true_depth
from spaceclip_worlds.rover.instruction import COLOURS, SHAPES, instruction_for
from spaceclip_worlds.rover.policy import GRID_HW, PATCH, SEARCH, naive_action
from spaceclip_worlds.rover.pose import Action, Pose
from spaceclip_worlds.rover.steering import DepthSafetyFilter, SteeringOptions
from spaceclip_worlds.rover.world import Observation, RoverWorld

_KEPT_EVERY, _MAX_STEPS = 5, 150
_ANYWHERE, _CLOSE_BY = 4, 4
_FLOOR_M = 0.01
_MIN_CLEARANCE_M = 0.2
_MIN_PIXELS = 4
_ABSENT_SHARE = 0.15
_CLOSE = SteeringOptions(margin_m=0.08)
"""Passes closer by than the rover does later: what is near matters most."""


@dataclass(frozen=True, eq=False)
class Frame:
    """What was seen from one place.

    Attributes:
        seen: the observation.
        pose: of the rover in the arena.
        goals: of the arena.
    """

    seen: Observation
    pose: Pose
    goals: tuple[Goal, ...]

    def sample(self, name: str) -> DepthSample:
        """For training and scoring depth."""
        return DepthSample(self.seen.image, self.seen.depth_m, name, self.seen.intrinsics)


@dataclass(frozen=True, eq=False)
class Lesson:
    """A question and what the policy should say.

    Attributes:
        image: (112, 112, 3) uint8 RGB, perhaps mirrored.
        instruction: the question.
        place: (1 + patches,) float32 shares: all at 0 where the goal is out of sight, else over the patches it covers.
        told: (4,) float32 as in `PolicyOutput.told`.
        parts: (patches, 4) float32 shares of each patch that show each of `policy.PARTS`.
    """

    image: npt.NDArray[np.uint8]
    instruction: str
    place: npt.NDArray[np.float32]
    told: npt.NDArray[np.float32]
    parts: npt.NDArray[np.float32]


def frames_of(seed: int, generator: np.random.Generator) -> list[Frame]:
    """Frames of the arena of one seed: along a drive with detours, from anywhere, and from close by some solid."""
    world = RoverWorld(seed)
    frames = _driven(world, generator)
    poses = [_anywhere(world, generator) for _ in range(_ANYWHERE)]
    poses += [_close_by(world, generator) for _ in range(_CLOSE_BY)]
    for pose in poses:
        world.pose = pose
        frames.append(Frame(world.observe(), pose, world.arena.goals))
    return frames


def lesson(frame: Frame, generator: np.random.Generator, *, mirrored: bool = False) -> Lesson:
    """Ask for one of the goals of a frame, now and then for one that is not there."""
    present = [goal.colour for goal in frame.goals]
    shown = np.zeros(frame.seen.solid.shape, np.bool_)
    if generator.random() < _ABSENT_SHARE:
        absent = [colour for colour in COLOURS if colour not in present]
        instruction, centre = instruction_for(str(generator.choice(absent)), str(generator.choice(SHAPES))), None
    else:
        named = int(generator.integers(len(present)))
        instruction, centre = frame.goals[named].instruction, frame.goals[named].solid.centre_m
        shown = frame.seen.solid == named
    place = np.zeros(1 + GRID_HW[0] * GRID_HW[1], np.float32)
    told = np.array([SEARCH.speed_mps, SEARCH.turn_rps, 0.0, 0.0], np.float32)
    flip = slice(None, None, -1 if mirrored else 1)
    if centre is None or shown.sum() < _MIN_PIXELS:
        place[0] = 1.0
    else:
        covered = _per_patch(shown[:, flip])
        place[1:] = covered / covered.sum()
        forward, left = frame.pose.to_rover(centre[0], centre[1])
        left = -left if mirrored else left
        action = naive_action((forward, left))
        told[:] = (
            action.speed_mps, action.turn_rps, math.atan2(left, forward), math.log(math.hypot(forward, left))
        )  # fmt: skip
    parts = np.stack([_per_patch(part[:, flip]) for part in _parts(frame)], axis=-1)
    return Lesson(frame.seen.image[:, flip], instruction, place, told, parts)


def _parts(frame: Frame) -> list[npt.NDArray[np.bool_]]:
    """(112, 112) masks of floor, walls, obstacles and goals."""
    seen = frame.seen
    points = back_project(torch.from_numpy(seen.depth_m)[None], seen.intrinsics)[0].numpy()
    height_m = seen.camera.position_m[2] + points @ seen.camera.rotation[2]
    room, goals = seen.solid < 0, (seen.solid >= 0) & (seen.solid < len(frame.goals))
    return [room & (height_m < _FLOOR_M), room & (height_m >= _FLOOR_M), ~room & ~goals, goals]


def _per_patch(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
    """(patches,) share of each patch that a mask covers."""
    cells = mask.reshape(GRID_HW[0], PATCH, GRID_HW[1], PATCH)
    share: npt.NDArray[np.float32] = cells.mean(axis=(1, 3), dtype=np.float32).reshape(-1)
    return share


def _driven(world: RoverWorld, generator: np.random.Generator) -> list[Frame]:
    """Every fourth frame of a drive by the naive expert behind the filter on true depth; it lurches now and then."""
    guard, frames, lurch_rps = DepthSafetyFilter(_CLOSE), [], 0.0
    x_m, y_m, _ = world.arena.goals[0].solid.centre_m
    while world.outcome is None and world.steps < _MAX_STEPS:
        seen = world.observe()
        if world.steps % _KEPT_EVERY == 0:
            frames.append(Frame(seen, world.pose, world.arena.goals))
        lurch_rps = generator.uniform(-2.0, 2.0) if generator.random() < 0.1 else 0.8 * lurch_rps
        wanted = naive_action(world.pose.to_rover(x_m, y_m))
        wanted = Action(wanted.speed_mps, wanted.turn_rps + lurch_rps)
        depth = true_depth(seen)
        steered = guard(wanted, depth, intrinsics=seen.intrinsics, camera=seen.camera, pose=seen.pose)
        world.step(steered.action)
    return frames


def _anywhere(world: RoverWorld, generator: np.random.Generator) -> Pose:
    """Some free place, mostly facing the goals."""
    while True:
        x_m, y_m = generator.uniform((-2.75, -1.85), (2.3, 1.85)).tolist()
        width = 1.0 if generator.random() < 0.7 else math.pi
        heading_rad = generator.uniform(-width, width)
        if world.arena.clearance_m(x_m, y_m) > _MIN_CLEARANCE_M:
            return Pose(x_m, y_m, heading_rad)


def _close_by(world: RoverWorld, generator: np.random.Generator) -> Pose:
    """Some free place before a solid, which is in the picture: what is near matters most."""
    while True:
        solid = world.arena.solids[int(generator.integers(len(world.arena.solids)))]
        distance_m, around_rad, aside_rad = generator.uniform((0.35, -math.pi, -0.6), (1.2, math.pi, 0.6)).tolist()
        x_m = solid.centre_m[0] + distance_m * math.cos(around_rad)
        y_m = solid.centre_m[1] + distance_m * math.sin(around_rad)
        if world.arena.clearance_m(x_m, y_m) > _MIN_CLEARANCE_M:
            return Pose(x_m, y_m, around_rad + math.pi + aside_rad)
