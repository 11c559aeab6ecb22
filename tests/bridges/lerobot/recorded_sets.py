"""Small data sets that lerobot itself wrote: two cameras without depth, or one that has it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from small_world import tiny_mixer
from torch import nn

from spaceclip_plugin import DepthHead

FRONT, WRIST = "observation.images.front", "observation.images.wrist"
HEIGHT, WIDTH = 48, 64
MEASURED_HW = (96, 96)
LENGTHS = (3, 5, 2)
TASKS = ("look", "reach", "look")


def host() -> nn.Module:
    """A host as `--host python:recorded_sets:host` names it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return timm.create_model(
            "vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=2, num_classes=0
        ).eval()


def head(*, trained: bool = True, **options: Any) -> DepthHead:
    """A head for it that says it was trained; it gives depth from 1 mm to 10 m, and uncertainty."""
    return tiny_mixer(host(), trained_on="a room" if trained else None, **options).eval()


def record(root: Path, *, video: bool, lengths: tuple[int, ...] = LENGTHS) -> Path:
    """A data set of two cameras, with state, action and two tasks."""
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    names = ["height", "width", "channels"]
    features = {
        **{
            key: {"dtype": "video" if video else "image", "shape": (HEIGHT, WIDTH, 3), "names": names}
            for key in (FRONT, WRIST)
        },
        "observation.state": {"dtype": "float32", "shape": (2,), "names": ["x", "y"]},
        "action": {"dtype": "float32", "shape": (2,), "names": ["x", "y"]},
    }
    dataset = LeRobotDataset.create("someone/kitchen", fps=10, root=root, features=features, use_videos=video)
    generator = np.random.default_rng(0)
    for episode, length in enumerate(lengths):
        for frame in range(length):
            dataset.add_frame(
                {
                    FRONT: photo(episode, frame),
                    WRIST: 255 - photo(episode, frame),
                    "observation.state": generator.normal(size=2).astype(np.float32),
                    "action": generator.normal(size=2).astype(np.float32),
                    "task": TASKS[episode % len(TASKS)],
                }
            )
        dataset.save_episode(parallel_encoding=False)
    dataset.finalize()
    return root


def record_measured(root: Path, seeds: range) -> Path:
    """A data set whose only camera has depth: a frame for each seed, two to an episode, two frames a second."""
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    names = ["height", "width", "channels"]
    features = {
        FRONT: {"dtype": "image", "shape": (*MEASURED_HW, 3), "names": names},
        f"{FRONT}_depth": {
            "dtype": "image",
            "shape": (*MEASURED_HW, 1),
            "names": names,
            "info": {"is_depth_map": True, "depth_unit": "mm"},
        },
        "action": {"dtype": "float32", "shape": (2,), "names": ["speed", "turn"]},
    }
    written = LeRobotDataset.create("lab/kitchen", fps=2, root=root, features=features, use_videos=False)
    for seed in seeds:
        image, depth_m = photo_and_depth(seed)
        depth_mm = (1000 * depth_m).astype(np.uint16)[..., None]
        written.add_frame(
            {FRONT: image, f"{FRONT}_depth": depth_mm, "action": np.zeros(2, np.float32), "task": "drive"}
        )
        if seed % 2:
            written.save_episode()
    written.finalize()
    return root


def photo_and_depth(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(H, W, 3) uint8 that no other seed gives, and (H, W) float32 metres."""
    generator = np.random.default_rng(seed)
    rows, columns = np.mgrid[: MEASURED_HW[0], : MEASURED_HW[1]]
    depth_m = 0.5 + rows / MEASURED_HW[0] + generator.random() * columns / MEASURED_HW[1]
    noise = generator.integers(0, 64, (*MEASURED_HW, 3))
    return (100 * depth_m[..., None] % 192 + noise).astype(np.uint8), depth_m.astype(np.float32)


def photo(episode: int, frame: int) -> np.ndarray:
    """(H, W, 3) uint8: a slope with a square that moves, smooth enough to survive a video."""
    ramp = np.linspace(0, 255, WIDTH)[None, :, None] * np.array([1.0, 0.6, 0.2])
    picture = np.broadcast_to(ramp, (HEIGHT, WIDTH, 3)).astype(np.uint8) // (episode + 1)
    left = 4 * frame
    picture[10:30, left : left + 16] = (200, 40 * episode, 30 * frame)
    return picture


def files(root: Path) -> dict[str, str]:
    """SHA-256 of every file in a folder."""
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }
