"""Finding a block that one of two cameras may not see: how often, how well, and how far their depths agree."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import torch

from spaceclip_plugin import DepthAttachment, DepthMap, attach_depth_head
from spaceclip_plugin.errors import CaptureError, ConfigError
from spaceclip_worlds import checks
from spaceclip_worlds.arm.embedded import load_arm_head
from spaceclip_worlds.arm.episode import ALIGNED, PREDICTED, TABLE, TRUE
from spaceclip_worlds.arm.known_table import aligned_to_table, table_depth
from spaceclip_worlds.arm.observation import Observation, locate_block
from spaceclip_worlds.arm.policy import ArmPolicy, load_arm_policy
from spaceclip_worlds.arm.two_cameras import BLOCK_HALF_M, SIDES, TwoCameraTable
from spaceclip_worlds.render.scene import Vector

DEPTHS = (TRUE, ALIGNED, PREDICTED, TABLE)
CAMERAS: dict[str, tuple[str, ...]] = {"left": ("left",), "right": ("right",), "both": SIDES}
FOUND_M = 0.03
"""The block is found when it is no farther than this from where it is said to be; its side is 5 cm."""
_SAME_SURFACE_M = 0.01


@dataclass(frozen=True)
class FindScore:
    """How many tables went.

    Attributes:
        depth: where depth came from, one of `DEPTHS`.
        cameras: which were used, one of `CAMERAS`.
        seeds: number of tables.
        found: how often the block was found within `FOUND_M`.
        wrong: how often it was said to be elsewhere.
        hidden: how often no camera in use saw it.
        median_error_m: of the block's centre where it was seen; None where it never was.
        median_agreement_m: distance between what both cameras say of the surfaces that both see, median over pixels,
            then tables; None where one camera is used.
        cpu_seconds: all of them took, pictures included.
    """

    depth: str
    cameras: str
    seeds: int
    found: int
    wrong: int
    hidden: int
    median_error_m: float | None
    median_agreement_m: float | None
    cpu_seconds: float


def look(policy: ArmPolicy, attachment: DepthAttachment, seen: Mapping[str, Observation]) -> dict[str, DepthMap]:
    """Run the policy on what all cameras see, and read depth by the cameras' names.

    Args:
        policy: the host.
        attachment: a head on it, attached with the names of the cameras as `cameras`, in the order of `seen`.
        seen: an observation for each camera.

    Raises:
        CaptureError: the attachment does not tell which depth is which camera's.
    """
    policy.select_action([observation.image for observation in seen.values()])
    depths = {frame.camera or "": frame for frame in attachment.read()}
    if depths.keys() != seen.keys():
        raise CaptureError(
            f"depth of the cameras {', '.join(seen)} was expected, got {', '.join(depths) or 'none'}; "
            "attach with cameras=[...] in the order in which the policy looks"
        )
    return depths


def find_block(seen: Mapping[str, Observation], depths: Mapping[str, DepthMap]) -> Vector | None:
    """Where the block is by the cameras that see it: the mean of what they say, or None."""
    places = [locate_block(observation, depths[side], half_m=BLOCK_HALF_M) for side, observation in seen.items()]
    told = [place for place in places if place is not None]
    if not told:
        return None
    x, y, z = np.mean(told, axis=0).tolist()
    return (x, y, z)


def agreement_m(seen: Mapping[str, Observation], depths: Mapping[str, DepthMap]) -> float:
    """Median distance, in the world, between what two cameras say of the surfaces that both see.

    Which pixels show the same surface, the true depth tells; a pixel of the other camera is the nearest one.

    Raises:
        ConfigError: not two cameras, or they see nothing in common.
    """
    if len(seen) != 2:
        raise ConfigError(f"agreement is that of two cameras, got {len(seen)}: {', '.join(seen)}")
    (side, one), (other_side, other) = seen.items()
    true_m = one.world_points(one.depth_map())
    inside = (true_m - np.array(other.camera.position_m)) @ other.camera.rotation
    ahead = np.maximum(inside[..., 2], 1e-6)
    column = np.floor(inside[..., 0] / ahead * other.intrinsics.fx_px + other.intrinsics.cx_px).astype(np.intp)
    row = np.floor(inside[..., 1] / ahead * other.intrinsics.fy_px + other.intrinsics.cy_px).astype(np.intp)
    height, width = other.depth_m.shape
    common = (inside[..., 2] > 0) & (row >= 0) & (row < height) & (column >= 0) & (column < width)
    row, column = row.clip(0, height - 1), column.clip(0, width - 1)
    common &= np.abs(other.depth_m[row, column] - inside[..., 2]) < _SAME_SURFACE_M
    if not common.any():
        raise ConfigError("the two cameras see no surface in common; let them look at the same place")
    said, said_by_other = one.world_points(depths[side]), other.world_points(depths[other_side])
    apart_m = np.linalg.norm(said[common] - said_by_other[row[common], column[common]], axis=-1)
    return float(np.median(apart_m))


def score(seeds: Iterable[int], depth: str = ALIGNED, *, cameras: str = "both") -> FindScore:
    """Look for the block on many tables, with the embedded head where depth is predicted.

    Args:
        seeds: of the tables.
        depth: one of `DEPTHS`.
        cameras: one of `CAMERAS`; the policy looks through both in any case.

    Raises:
        ConfigError: no seed, or another word.
    """
    checks.choice("depth", depth, DEPTHS)
    used = CAMERAS[checks.choice("cameras", cameras, CAMERAS)]
    started, errors_m, agreements_m = time.process_time(), [], []
    with ExitStack() as stack, torch.no_grad():
        policy = load_arm_policy()
        attachment = stack.enter_context(attach_depth_head(policy, load_arm_head(), cameras=SIDES))
        for seed in seeds:
            table = TwoCameraTable(seed)
            seen = {side: table.observe(side) for side in SIDES}
            depths = _depths(depth, policy, attachment, seen)
            place = find_block({side: seen[side] for side in used}, depths)
            errors_m.append(None if place is None else math.dist(place, table.block_m))
            if len(used) == 2:
                agreements_m.append(agreement_m(seen, depths))
    if not errors_m:
        raise ConfigError("a score needs at least one seed, got none")
    told_m = [error for error in errors_m if error is not None]
    found = sum(error <= FOUND_M for error in told_m)
    return FindScore(
        depth=depth,
        cameras=cameras,
        seeds=len(errors_m),
        found=found,
        wrong=len(told_m) - found,
        hidden=len(errors_m) - len(told_m),
        median_error_m=statistics.median(told_m) if told_m else None,
        median_agreement_m=statistics.median(agreements_m) if agreements_m else None,
        cpu_seconds=time.process_time() - started,
    )


def _depths(
    depth: str, policy: ArmPolicy, attachment: DepthAttachment, seen: Mapping[str, Observation]
) -> dict[str, DepthMap]:
    if depth == TRUE:
        return {side: observation.depth_map() for side, observation in seen.items()}
    if depth == TABLE:
        return {side: table_depth(observation) for side, observation in seen.items()}
    depths = look(policy, attachment, seen)
    return {side: aligned_to_table(depths[side], seen[side]) if depth == ALIGNED else depths[side] for side in seen}
