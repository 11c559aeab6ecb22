"""Closed loops: one drive with a source of depth behind the safety filter, and the score of many."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import torch

from spaceclip_plugin import DepthAttachment, DepthMap, attach_depth_head
from spaceclip_plugin.errors import ConfigError
from spaceclip_worlds import checks
from spaceclip_worlds.rover.embedded import load_head, load_policy
from spaceclip_worlds.rover.policy import RoverPolicy
from spaceclip_worlds.rover.steering import DepthSafetyFilter, SteeringOptions
from spaceclip_worlds.rover.world import Observation, Outcome, RoverWorld

PREDICTED, TRUE, NONE = "predicted", "true", "none"
DEPTHS = (TRUE, PREDICTED, NONE)
"""Where depth comes from: the world, a head on the policy's own tower, or nowhere: then there is no filter either."""


@dataclass(frozen=True)
class Drive:
    """How one episode went.

    Attributes:
        seed: of the episode.
        outcome: how it ended.
        time_s: simulated seconds until then.
        steps: taken.
        min_clearance_m: the closest that the rover's body came to a wall or solid at the end of a step.
    """

    seed: int
    outcome: Outcome
    time_s: float
    steps: int
    min_clearance_m: float


@dataclass(frozen=True)
class LoopScore:
    """How many episodes went.

    Attributes:
        depth: where depth came from, one of `DEPTHS`.
        seeds: number of episodes.
        successes, collisions, timeouts: how they ended.
        median_time_to_goal_s: simulated seconds, of those that reached the goal; None where none did.
        cpu_seconds: all of them took, pictures included.
    """

    depth: str
    seeds: int
    successes: int
    collisions: int
    timeouts: int
    median_time_to_goal_s: float | None
    cpu_seconds: float


def true_depth(observation: Observation) -> DepthMap:
    """The world's own depth, as a head would give it."""
    depth_m = torch.from_numpy(observation.depth_m.astype(np.float32))[None]
    height, width = observation.depth_m.shape
    valid = torch.ones_like(depth_m, dtype=torch.bool)
    return DepthMap(depth_m, valid, camera=None, frame=0, image_hw=(height, width), trained=True)


def drive(
    seed: int,
    depth: str = PREDICTED,
    *,
    policy: RoverPolicy | None = None,
    attachment: DepthAttachment | None = None,
    options: SteeringOptions | None = None,
) -> Drive:
    """Drive one episode.

    Args:
        seed: of the episode.
        depth: "predicted", "true", or "none", which leaves the filter out.
        policy: the driver; the embedded one if None.
        attachment: a head on that policy, for predicted depth; the embedded one is attached for this drive if None.
            Where it keeps depth steady, it is told where odometry says that the camera is.
        options: of the filter.

    Raises:
        ConfigError: another word for `depth`, or an attachment without the policy it hangs on.
    """
    checks.choice("depth", depth, DEPTHS)
    if attachment is not None and policy is None:
        raise ConfigError("an attachment reads one policy; give that policy, too: drive(seed, policy=…, attachment=…)")
    policy = load_policy() if policy is None else policy
    world, guard = RoverWorld(seed), DepthSafetyFilter(options)
    policy.reset()
    closest_m = world.clearance_m
    with ExitStack() as stack:
        if depth == PREDICTED and attachment is None:
            attachment = stack.enter_context(attach_depth_head(policy, load_head()))
        steady = None if attachment is None else attachment.steady
        if steady is not None:
            steady.reset()
        while world.outcome is None:
            seen = world.observe()
            if attachment is not None and steady is not None:
                attachment.place(seen.camera.pose())
            action = policy.select_action(seen)
            if depth != NONE:
                frame = _newest(attachment) if depth == PREDICTED else true_depth(seen)
                action = guard(
                    action, frame, intrinsics=seen.intrinsics, camera=seen.camera, pose=seen.pose
                ).action  # fmt: skip
            world.step(action)
            closest_m = min(closest_m, world.clearance_m)
    return Drive(seed, world.outcome, world.time_s, world.steps, closest_m)


def score(seeds: Iterable[int], depth: str = PREDICTED, *, options: SteeringOptions | None = None) -> LoopScore:
    """Drive many episodes with the embedded policy and head.

    Args:
        seeds: of the episodes.
        depth, options: see `drive`.

    Raises:
        ConfigError: no seed, or another word for `depth`.
    """
    started, policy = time.process_time(), load_policy()
    with attach_depth_head(policy, load_head()) as attachment:
        reader = attachment if depth == PREDICTED else None
        drives = [drive(seed, depth, policy=policy, attachment=reader, options=options) for seed in seeds]
    if not drives:
        raise ConfigError("a score needs at least one seed, got none")
    ended = [each.outcome for each in drives]
    to_goal_s = [each.time_s for each in drives if each.outcome is Outcome.GOAL]
    return LoopScore(
        depth=depth,
        seeds=len(drives),
        successes=ended.count(Outcome.GOAL),
        collisions=ended.count(Outcome.COLLISION),
        timeouts=ended.count(Outcome.TIMEOUT),
        median_time_to_goal_s=statistics.median(to_goal_s) if to_goal_s else None,
        cpu_seconds=time.process_time() - started,
    )


def _newest(attachment: DepthAttachment | None) -> DepthMap | None:
    frames = [] if attachment is None else attachment.read()
    return frames[-1] if frames else None
