"""Pictures that the arm's depth head learns from: tables in MuJoCo and tables of the ray-caster."""

from __future__ import annotations

import numpy as np

from spaceclip_plugin.data import DepthSample
from spaceclip_plugin.evaluation import Protocol
from spaceclip_worlds import checks
from spaceclip_worlds.arm.two_cameras import SIDES, TwoCameraTable
from spaceclip_worlds.arm.world import ArmWorld
from spaceclip_worlds.render.scene import Vector

FIRST_SEED = {"train": 1_000_000, "validation": 2_000_000, "test": 3_000_000}
"""Far from each other, and from the seeds of the closed loops (`benchmarks/closed_loop.py`)."""
MAX_TABLES = 500_000
PROTOCOL = Protocol(name="arm", description="rendered tables, every pixel", depth_scale=1000.0, max_depth_m=5.0)
_TABLE_CAMERAS, _WRIST_LOOKS = 4, 4


def samples_of(split: str, tables: int) -> list[DepthSample]:
    """Pictures of as many tables of the arm, and of twice as many that two cameras watch: twelve for each.

    Args:
        split: "train", "validation" or "test"; they share no table.
        tables: 1 to `MAX_TABLES`.

    Raises:
        ConfigError: another split or number, or MuJoCo is missing or cannot draw.
    """
    checks.whole("tables", tables, 1, MAX_TABLES)
    first = FIRST_SEED[checks.choice("split", split, FIRST_SEED)]
    seeds = range(first, first + tables)
    samples = [sample for seed in seeds for sample in arm_samples(seed)]
    watched = [each for seed in seeds for each in (seed, seed + MAX_TABLES)]
    return samples + [sample for seed in watched for sample in table_samples(seed)]


def arm_samples(seed: int) -> list[DepthSample]:
    """Eight pictures of one arm's table: four cameras around it, and the wrist's from four places above it.

    Raises:
        ConfigError: MuJoCo is missing or cannot draw.
    """
    generator = np.random.default_rng([seed, 1])
    with ArmWorld(seed, cameras=_TABLE_CAMERAS) as world:
        seen = [(f"table{camera}", world.observe(f"table{camera}")) for camera in range(_TABLE_CAMERAS)]
        for look in range(_WRIST_LOOKS):
            world.pose_at(_above(world.block_m, generator))
            seen.append((f"wrist look {look}", world.observe("wrist")))
    return [observation.sample(f"arm seed {seed} {name}") for name, observation in seen]


def table_samples(seed: int) -> list[DepthSample]:
    """Both pictures of one table that two cameras watch."""
    table = TwoCameraTable(seed)
    return [table.observe(side).sample(f"two cameras seed {seed} {side}") for side in SIDES]


def _above(block_m: Vector, generator: np.random.Generator) -> Vector:
    """Somewhere above the block, as wrong as a first look may be."""
    x_m, y_m, up_m = (np.array([*block_m[:2], block_m[2]]) + generator.normal(0.0, (0.03, 0.03, 0.02))).tolist()
    return (x_m, y_m, up_m + float(generator.uniform(0.16, 0.24)))
