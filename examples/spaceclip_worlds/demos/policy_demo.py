"""The main job in seconds: a language-conditioned policy drives, and depth is read from its own frozen tower.

Policy and head are embedded (`examples/embedded/train_rover.py` made them); the arenas are rendered, and none of their
seeds was seen in training. Nothing is downloaded.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm.auto import tqdm

from spaceclip_plugin._files import write_json
from spaceclip_plugin.attach.attachment import attach_depth_head
from spaceclip_plugin.data.sample import DepthSample
from spaceclip_plugin.depth.depth_map import DepthMap
from spaceclip_plugin.depth.pictures import PanelRow, depth_panel, write_png
from spaceclip_plugin.evaluation import DepthMetrics, Protocol, mean_metrics
from spaceclip_worlds.demos.folder import RECORD_NAME, WRITTEN, check_demo_folder, digests
from spaceclip_worlds.rover.embedded import load_head, load_policy
from spaceclip_worlds.rover.policy import RoverPolicy
from spaceclip_worlds.rover.steering import DepthSafetyFilter
from spaceclip_worlds.rover.world import IMAGE_HW, Outcome, RoverWorld

FIRST_SEED = 4_000_000
"""Arenas from here on are the demo's."""
PROTOCOL = Protocol(name="arena", description="rendered arenas, every pixel", depth_scale=1000.0, max_depth_m=10.0)
SHOWN = 4
FILES = {"picture": "depth.png", "points": "points.ply", "depth_mm": "depth_mm.png"}
"""What a demo writes beside its record, by kind."""


@dataclass(frozen=True, eq=False)
class DemoResult:
    """What the demo measured while it drove.

    Attributes:
        arenas: how many episodes, each in an arena of its own.
        frames: images whose depth was compared with the truth.
        predicted: metrics of the attached head.
        constant: those of the median true depth of these very frames: the best single number.
        outcomes: how the episodes ended, by name.
        actions_identical: whether the policy gives the same bits with and without its taps.
        files: what was written, by kind.
    """

    arenas: int
    frames: int
    predicted: DepthMetrics
    constant: DepthMetrics
    outcomes: dict[str, int]
    actions_identical: bool
    files: dict[str, Path]


def run_demo(out: Path, *, arenas: int = 8, overwrite: bool = False, progress: bool = True) -> DemoResult:
    """Drive, read depth at every step, write pictures and figures.

    Args:
        out: folder for the results, made if absent; those of an earlier demo are replaced.
        arenas: episodes to drive, at least 1.
        overwrite: replace files of the results' names whoever wrote them.

    Raises:
        ConfigError: without `overwrite`, a file in the way is not an earlier demo's.
        CheckpointError: the embedded files are damaged.
        OSError: the folder cannot be written.
    """
    check_demo_folder(out, FILES.values(), overwrite=overwrite)
    policy = load_policy()
    frames: list[tuple[DepthSample, DepthMap]] = []
    outcomes = dict.fromkeys((outcome.value for outcome in Outcome), 0)
    with attach_depth_head(policy, load_head()) as attachment:
        for seed in tqdm(range(FIRST_SEED, FIRST_SEED + arenas), desc="driving", unit="arena", disable=not progress):
            world, guard = RoverWorld(seed), DepthSafetyFilter()
            policy.reset()
            while world.outcome is None:
                seen = world.observe()
                action = policy.select_action(seen)
                [depth] = attachment.read(IMAGE_HW)
                name = f"arena {seed} step {world.steps}"
                frames.append((DepthSample(seen.image, seen.depth_m, name, seen.intrinsics), depth))
                steered = guard(action, depth, intrinsics=seen.intrinsics, camera=seen.camera, pose=seen.pose)
                world.step(steered.action)
            outcomes[world.outcome.value] += 1
        report = attachment.verify_call(lambda: _first_action(policy))
    scores = [PROTOCOL.score(depth.depth_m[0], sample) for sample, depth in frames]
    guess = torch.full(IMAGE_HW, float(np.median([sample.depth_m for sample, _ in frames])))
    constant = mean_metrics([PROTOCOL.score(guess, sample) for sample, _ in frames])
    result = DemoResult(
        arenas, len(frames), mean_metrics(scores), constant, outcomes, report.identical, _write_pictures(frames, out)
    )
    metrics = out / RECORD_NAME
    record = {**dataclasses.asdict(result), "files": {kind: path.name for kind, path in result.files.items()}}
    write_json(metrics, {**record, WRITTEN: digests(result.files.values())})
    return dataclasses.replace(result, files={**result.files, "metrics": metrics})


def _first_action(policy: RoverPolicy) -> tuple[float, float]:
    policy.reset()
    action = policy.select_action(RoverWorld(FIRST_SEED).observe())
    return action.speed_mps, action.turn_rps


def _write_pictures(frames: Sequence[tuple[DepthSample, DepthMap]], out: Path) -> dict[str, Path]:
    files = {kind: out / name for kind, name in FILES.items()}
    # From all over the drives, none the first of its arena: they all begin alike.
    chosen = [frames[(2 * i + 1) * len(frames) // (2 * SHOWN)] for i in range(SHOWN)]
    rows = [
        PanelRow(sample.image, depth.depth_m[0].numpy(), sample.depth_m, depth.valid[0].numpy())
        for sample, depth in chosen
    ]
    write_png(files["picture"], depth_panel(rows))
    first, depth = chosen[0]
    depth.save_png16(files["depth_mm"])
    if first.intrinsics is not None:
        depth.save_ply(files["points"], first.intrinsics, image=first.image)
    return files
