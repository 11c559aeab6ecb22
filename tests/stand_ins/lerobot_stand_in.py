"""A stand-in for lerobot's data set class: the same arguments, properties and tensors, from one file of arrays."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

KEY = "observation.images.front"
INFO = {"is_depth_map": True, "depth_unit": "mm"}
FEATURES: dict[str, dict[str, Any]] = {
    KEY: {"dtype": "image", "shape": (4, 5, 3)},
    f"{KEY}_depth": {"dtype": "image", "shape": (4, 5, 1), "info": INFO},
    "action": {"dtype": "float32", "shape": (2,)},
}
EPISODE = 2
"""Frames in each episode."""
FRAMES_PER_SECOND = 4


def save(root: Path, images: np.ndarray, depth_mm: np.ndarray) -> None:
    """A data set of frames of millimetres, (N, H, W, 3) uint8 and (N, H, W)."""
    (root / "meta").mkdir(parents=True)
    (root / "meta" / "info.json").write_text(json.dumps({"total_episodes": len(images) // EPISODE}))
    np.savez(root / "frames.npz", images=images, depth_mm=depth_mm)


class StandIn:
    """Frames as `LeRobotDataset` (0.6.1) returns them from images."""

    def __init__(
        self,
        repo_id: str,
        root: str | Path | None = None,
        episodes: list[int] | None = None,
        depth_output_unit: str = "mm",
        return_uint8: bool = False,
    ) -> None:
        if root is None:
            raise FileNotFoundError(f"{repo_id} is not on the Hub")
        self.fps = FRAMES_PER_SECOND
        self.repo_id, self.depth_output_unit = repo_id, depth_output_unit
        self.features: dict[str, dict[str, Any]] = {key: dict(feature) for key, feature in FEATURES.items()}
        with np.load(Path(root) / "frames.npz") as arrays:
            images, depth_mm = arrays["images"], arrays["depth_mm"]
        self.meta = SimpleNamespace(total_episodes=len(images) // EPISODE)
        chosen = [i for i in range(len(images)) if episodes is None or i // EPISODE in episodes]
        if not chosen:
            raise ValueError("no data")
        scale = 1.0 if depth_output_unit == "mm" else 1000.0
        self.items: list[dict[str, Any]] = [
            {
                KEY: torch.from_numpy(images[i]).permute(2, 0, 1).float() / 255,
                f"{KEY}_depth": torch.from_numpy(depth_mm[i].astype(np.float32))[None] / scale,
                "episode_index": torch.tensor(i // EPISODE),
                "frame_index": torch.tensor(i % EPISODE),
            }
            for i in chosen
        ]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.items[index]
