"""The main job in seconds: a language-conditioned policy drives, and depth is read from its own frozen tower.

Policy and head are embedded (`examples/embedded/train_rover.py` made them); the arenas are rendered, and none of their
seeds was seen in training. Nothing is downloaded.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm.auto import tqdm

from spaceclip_plugin import DepthAttachment, DepthMap, attach_depth_head
from spaceclip_plugin.data import DepthSample
from spaceclip_plugin.errors import ConfigError
from spaceclip_plugin.evaluation import Protocol, mean_metrics
from spaceclip_worlds.demos.demo import (
    SHOWN,
    DemoReport,
    check_demo_folder,
    figures_line,
    write_pictures,
    write_record,
)
from spaceclip_worlds.rover.embedded import load_head, load_policy
from spaceclip_worlds.rover.policy import RoverPolicy
from spaceclip_worlds.rover.steering import DepthSafetyFilter
from spaceclip_worlds.rover.world import IMAGE_HW, Outcome, RoverWorld

FIRST_SEED = 4_000_000
"""Arenas from here on are the demo's."""
PROTOCOL = Protocol(name="arena", description="rendered arenas, every pixel", depth_scale=1000.0, max_depth_m=10.0)


@dataclass(frozen=True)
class PolicyDemo:
    """A drive of the embedded policy, with depth from its tower at every step.

    Attributes:
        arenas: episodes to drive, each in an arena of its own, at least 1.
    """

    arenas: int = 8

    def __post_init__(self) -> None:
        if self.arenas < 1:
            raise ConfigError(f"arenas is a number of episodes, 1 or more, got {self.arenas}")

    def run(self, out: Path, *, overwrite: bool = False, progress: bool = True) -> DemoReport:
        """Drive, read depth at every step, write pictures and figures.

        Args:
            out: folder for the results, made if absent; those of an earlier demo are replaced.
            overwrite: replace files of the results' names whoever wrote them.

        Raises:
            ConfigError: without `overwrite`, a file in the way is not an earlier demo's.
            CheckpointError: the embedded files are damaged.
            OSError: the folder cannot be written.
        """
        check_demo_folder(out, overwrite=overwrite)
        policy = load_policy()
        seeds = range(FIRST_SEED, FIRST_SEED + self.arenas)
        frames: list[tuple[DepthSample, DepthMap]] = []
        outcomes = dict.fromkeys((outcome.value for outcome in Outcome), 0)
        with attach_depth_head(policy, load_head()) as attachment:
            for seed in tqdm(seeds, desc="driving", unit="arena", disable=not progress):
                outcomes[_drive(policy, attachment, seed, frames).value] += 1
            identical = attachment.verify(lambda: _first_action(policy)).identical
        predicted = mean_metrics([PROTOCOL.score(depth.depth_m[0], sample) for sample, depth in frames])
        guess = torch.full(IMAGE_HW, float(np.median([sample.depth_m for sample, _ in frames])))
        constant = mean_metrics([PROTOCOL.score(guess, sample) for sample, _ in frames])
        # From all over the drives, none the first of its arena: they all begin alike.
        shown = [frames[(2 * i + 1) * len(frames) // (2 * SHOWN)] for i in range(SHOWN)]
        files = write_pictures(out, [sample for sample, _ in shown], [depth for _, depth in shown])
        figures: dict[str, object] = {
            "arenas": self.arenas,
            "frames": len(frames),
            "predicted": dataclasses.asdict(predicted),
            "constant": dataclasses.asdict(constant),
            "outcomes": outcomes,
            "actions_identical": identical,
        }
        names = {kind: path.name for kind, path in files.items()}
        metrics = write_record(out, {**figures, "files": names}, files.values())
        ended = ", ".join(f"{name} {count}" for name, count in outcomes.items())
        lines = (
            f"{self.arenas} unseen arenas, {len(frames)} images, metric scale, one forward",
            figures_line(predicted, "depth from the policy's frozen tower"),
            figures_line(constant, "constant median of these very images"),
            f"driven behind the depth safety filter: {ended}",
            f"actions with and without taps: {'the same bits' if identical else 'NOT the same'}",
        )
        return DemoReport(lines, figures, {**files, "metrics": metrics})


def _drive(
    policy: RoverPolicy, attachment: DepthAttachment, seed: int, frames: list[tuple[DepthSample, DepthMap]]
) -> Outcome:
    """One episode, whose frames are added to those before it."""
    world, guard = RoverWorld(seed), DepthSafetyFilter()
    policy.reset()
    while world.outcome is None:
        seen = world.observe()
        action = policy.select_action(seen)
        [depth] = attachment.read(IMAGE_HW)
        name = f"arena {seed} step {world.steps}"
        frames.append((DepthSample(seen.image, seen.depth_m, name, seen.intrinsics), depth))
        world.step(guard(action, depth, intrinsics=seen.intrinsics, camera=seen.camera, pose=seen.pose).action)
    return world.outcome


def _first_action(policy: RoverPolicy) -> tuple[float, float]:
    policy.reset()
    action = policy.select_action(RoverWorld(FIRST_SEED).observe())
    return action.speed_mps, action.turn_rps
