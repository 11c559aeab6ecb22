"""Closed loops of the arm: find a block through depth, reach it, lift it; and the score of many."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np

from spaceclip_plugin import DepthAttachment, DepthMap, Intrinsics, attach_depth_head
from spaceclip_plugin.errors import ConfigError
from spaceclip_worlds import checks
from spaceclip_worlds.arm.embedded import load_arm_head
from spaceclip_worlds.arm.known_table import GUESSED, aligned_to_table, table_depth
from spaceclip_worlds.arm.observation import Observation, block_sighted
from spaceclip_worlds.arm.policy import ArmPolicy, load_arm_policy
from spaceclip_worlds.arm.scene import BLOCK_HALF_M, FOVY_RAD
from spaceclip_worlds.arm.world import IMAGE_HW, TABLE_CAMERA, WRIST_CAMERA, ArmWorld
from spaceclip_worlds.render.scene import Vector
from spaceclip_worlds.sighting import Sighting, fused

TRUE, ALIGNED, PREDICTED, STEADY = "true", "aligned", "predicted", "steady"
TABLE, CONSTANT = "table", "constant"
DEPTHS = (TRUE, ALIGNED, PREDICTED, STEADY, TABLE, CONSTANT)
"""Where depth comes from: the world; a head, with or without alignment to the table, or steadied by where the joints
say that the cameras are; the table as if nothing stood on it; or one number for each camera."""
REACHED_M = 0.03
"""The block is reached when its centre is no farther than this from the middle between the fingertips."""
LIFTED_M = 0.08
"""The block is lifted when it is higher by this in the end."""
_TYPICAL_M = {TABLE_CAMERA: 0.9, WRIST_CAMERA: 0.38}
_LOOK_FROM_M = (0.28, 0.2)  # how high above the estimate the wrist looks, the last time last
MOST_LOOKS = 1 + len(_LOOK_FROM_M)
_SEARCHED_SDS = (0.0, 1.5, -1.5)  # where it looks for a block that is not below, along what is most uncertain
_SURE_M = 0.03  # standard deviation above which the hand stays up
_APPROACH_M, _RAISE_M = 0.12, 0.15
_BELOW_CENTRE_M = 0.005
_LOWEST_TOOL_M = 0.012

See = Callable[[Observation, str], DepthMap]
"""Depth of a picture that the named camera took."""


@dataclass(frozen=True)
class Attempt:
    """How one episode went.

    Attributes:
        seed: of the episode.
        found: whether the block was seen.
        error_m: distance of the last estimate of the block's centre from the truth; infinite where it was not found.
        reached: whether the gripper came within `REACHED_M` of it, touching nothing else.
        lifted: whether it was lifted by `LIFTED_M`, touching nothing else before.
        collided: whether the gripper touched something else; that ends the episode.
    """

    seed: int
    found: bool
    error_m: float
    reached: bool
    lifted: bool
    collided: bool


@dataclass(frozen=True)
class ArmScore:
    """How many episodes went.

    Attributes:
        depth: where depth came from, one of `DEPTHS`.
        looks: 1 from beside the table, 2 with another from the wrist, 3 with one on its way there.
        seeds: number of episodes.
        reached, lifted, collisions, missed: how many; missed ones neither reached the block nor touched something else.
        median_error_m: of the block's centre; infinite where it mostly was not found.
        cpu_seconds: all of them took, pictures included.
    """

    depth: str
    looks: int
    seeds: int
    reached: int
    lifted: int
    collisions: int
    missed: int
    median_error_m: float
    cpu_seconds: float


def attempt(seed: int, see: See, *, looks: int = MOST_LOOKS) -> Attempt:
    """Look, reach and lift once; where looks leave the block's place uncertain, the hand stays up.

    Args:
        seed: of the episode.
        see: depth of a picture, with its uncertainty; depth that tells none is taken to be exact.
        looks: 1: from beside the table; 2: then from the wrist above the first estimate, which is nearer; 3: with one
            from higher up on its way there.

    Raises:
        ConfigError: another number of looks, or MuJoCo is missing or cannot draw.
    """
    checks.whole("looks", looks, 1, MOST_LOOKS)
    with ArmWorld(seed) as world:
        first = _sighted(world, see, TABLE_CAMERA)
        if first is None:
            return Attempt(seed, False, math.inf, False, False, False)
        sightings = [first]
        for up_m in _LOOK_FROM_M[MOST_LOOKS - looks :]:
            if _looked_from_above(world, see, sightings, up_m):
                return Attempt(seed, True, math.dist(fused(sightings).place, world.block_m), False, False, True)
        found = fused(sightings)
        place, error_m = found.place, math.dist(found.place, world.block_m)
        if float(np.linalg.norm(found.widest_m())) > _SURE_M:
            return Attempt(seed, True, error_m, False, False, False)
        collided = world.move_to(_above(place, _APPROACH_M)) or world.move_to(_above(place, -_BELOW_CENTRE_M))
        if collided:
            return Attempt(seed, True, error_m, False, False, True)
        reached = math.dist(world.tool_m, world.block_m) <= REACHED_M
        before_m = world.block_m[2]
        world.move_to(_above(place, -_BELOW_CENTRE_M), seconds=0.4, opening_m=0.0)
        world.move_to(_above(place, _RAISE_M), opening_m=0.0)
        return Attempt(seed, True, error_m, reached, world.block_m[2] - before_m >= LIFTED_M, False)


def _looked_from_above(world: ArmWorld, see: See, sightings: list[Sighting], up_m: float) -> bool:
    """Look down from above the estimate, and beside it where nothing is seen; whether the hand touched something."""
    found = fused(sightings)
    for sds in _SEARCHED_SDS:
        x, y, z = (found.place_m + sds * found.widest_m()).tolist()
        if world.move_to(_above((x, y, z), up_m)):
            return True
        seen = _sighted(world, see, WRIST_CAMERA)
        if seen is not None:
            sightings.append(seen)
            break
    return False


def _sighted(world: ArmWorld, see: See, camera: str) -> Sighting | None:
    seen = world.observe(camera)
    return block_sighted(seen, see(seen, camera), half_m=BLOCK_HALF_M)


def source_of(depth: str, policy: ArmPolicy | None = None, attachment: DepthAttachment | None = None) -> See:
    """What `attempt` takes as `see` for one of `DEPTHS`.

    Args:
        depth: one of `DEPTHS`.
        policy, attachment: for "predicted", "aligned" and "steady": a host, and the head attached to it, for "steady"
            as `attached` does it.

    Raises:
        ConfigError: another word, or a predicted depth without policy and attachment.
    """
    checks.choice("depth", depth, DEPTHS)
    if depth == TRUE:
        return lambda seen, camera: seen.depth_map()
    if depth == TABLE:
        return lambda seen, camera: table_depth(seen)
    if depth == CONSTANT:
        return lambda seen, camera: seen.depth_map(np.full_like(seen.depth_m, _TYPICAL_M[camera]), uncertainty=GUESSED)
    if policy is None or attachment is None:
        raise ConfigError(f"{depth} depth comes from a head: give the policy, and the attachment that reads it")

    def steadied(seen: Observation, camera: str) -> DepthMap:
        if camera == TABLE_CAMERA and attachment.steady is not None:
            attachment.steady.reset()  # with a look from there an attempt begins
        attachment.given([camera])
        attachment.place({camera: seen.camera.pose()})
        policy.select_action([seen.image])
        return attachment.read()[-1]

    def predicted(seen: Observation, camera: str) -> DepthMap:
        policy.select_action([seen.image])
        frame = attachment.read()[-1]
        return aligned_to_table(frame, seen) if depth == ALIGNED else frame

    return steadied if depth == STEADY else predicted


def attached(policy: ArmPolicy, depth: str) -> DepthAttachment:
    """The embedded head on a policy, for one of the sources of depth that come from it."""
    if depth != STEADY:
        return attach_depth_head(policy, load_arm_head())
    lens = Intrinsics.from_fovy(FOVY_RAD, IMAGE_HW)
    return attach_depth_head(policy, load_arm_head(), cameras={TABLE_CAMERA: lens, WRIST_CAMERA: lens}).keep_steady()


def score(seeds: Iterable[int], depth: str = ALIGNED, *, looks: int = MOST_LOOKS) -> ArmScore:
    """Try many episodes, with the embedded head where depth is predicted.

    Args:
        seeds: of the episodes.
        depth: one of `DEPTHS`.
        looks: see `attempt`.

    Raises:
        ConfigError: no seed, another word for `depth`, or MuJoCo is missing or cannot draw.
    """
    started = time.process_time()
    with ExitStack() as stack:
        policy = attachment = None
        if depth in (PREDICTED, ALIGNED, STEADY):
            policy = load_arm_policy()
            attachment = stack.enter_context(attached(policy, depth))
        see = source_of(depth, policy, attachment)
        attempts = [attempt(seed, see, looks=looks) for seed in seeds]
    if not attempts:
        raise ConfigError("a score needs at least one seed, got none")
    return ArmScore(
        depth=depth,
        looks=looks,
        seeds=len(attempts),
        reached=sum(each.reached for each in attempts),
        lifted=sum(each.lifted for each in attempts),
        collisions=sum(each.collided for each in attempts),
        missed=sum(not each.reached and not each.collided for each in attempts),
        median_error_m=statistics.median(each.error_m for each in attempts),
        cpu_seconds=time.process_time() - started,
    )


def _above(place: Vector, up_m: float) -> Vector:
    return (place[0], place[1], max(place[2] + up_m, _LOWEST_TOOL_M))
