"""Clips whose every frame has true depth and a true place, as heads see them; for steady.py."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from spaceclip_plugin import DepthMap, Intrinsics, attach_depth_head
from spaceclip_plugin.evaluation import VideoMetrics, predict, video_metrics
from spaceclip_plugin.steady import Look, SteadyDepth
from spaceclip_plugin.towers import load_host
from spaceclip_worlds.clip import ClipFrame
from spaceclip_worlds.metaworld.clip import MetaWorldClip
from spaceclip_worlds.render.tabletop_clip import TabletopClip

HOST = "timm:deit_tiny_patch16_224.fb_in1k"
SIDE = 224
NEAREST_M = 0.1
FARTHEST_M = {"nyu": 10.0, "metaworld": 6.0}
MM = 1000.0
HEADSET_FRAME_S = 0.1  # between two of its frames, about

HOLOLENS = "HoloLens"
HALVES = {f"{HOLOLENS}, frames 0 to 21": slice(0, 22), f"{HOLOLENS}, frames 22 to 44": slice(22, 45)}
HAMMER, BOX, ASSEMBLY, TABLETOP = (
    "hammer, camera at rest", "box-close, camera carried", "assembly, camera carried", "rendered tabletop",
)  # fmt: skip
CLIPS: dict[str, Callable[[], Sequence[ClipFrame]]] = {
    HAMMER: lambda: MetaWorldClip("hammer-v3", camera="static").frames(),
    BOX: lambda: MetaWorldClip("box-close-v3", camera="moving").frames(),
    ASSEMBLY: lambda: MetaWorldClip("assembly-v3", camera="moving").frames(),
    TABLETOP: lambda: TabletopClip().frames(),
}
HEADS_OF = {HAMMER: "metaworld", BOX: "metaworld", ASSEMBLY: "metaworld", TABLETOP: "both", HOLOLENS: "nyu"}


def hololens(folder: Path) -> list[ClipFrame]:
    """The frames of a headset on its way through a room; pixel centres of its calibration are at whole numbers."""
    (fx, _, cx), (_, fy, cy), _ = np.loadtxt(folder / "K.txt").tolist()
    places = np.loadtxt(folder / "poses.txt").reshape(-1, 4, 4)
    names = sorted(path.name for path in (folder / "images").glob("*.png"))
    frames = []
    for number, (name, place) in enumerate(zip(names, places, strict=True)):
        image = np.asarray(Image.open(folder / "images" / name).convert("RGB"))
        depth_m = np.asarray(Image.open(folder / "depth" / name)).astype(np.float32) / MM
        camera = Intrinsics(fx, fy, cx + 0.5, cy + 0.5, depth_m.shape)
        frames.append(ClipFrame(image, depth_m, np.zeros(depth_m.shape, bool), camera, place, number * HEADSET_FRAME_S))
    return frames


@dataclass(frozen=True, eq=False)
class Seen:
    """A clip as one head sees it, at the size of the tower's image.

    Attributes:
        depths, looks: of every frame, of the frame alone.
        truth_m: (N, H, W) metres, 1 where it does not count.
        valid: (N, H, W) bool, where it counts.
        moved: (N, H, W) bool, what has moved since the frame before.
        places: (N, 4, 4) float64.
        camera: of the images as they were taken.
    """

    depths: Sequence[DepthMap]
    looks: Sequence[Look]
    truth_m: Tensor
    valid: Tensor
    moved: Tensor
    places: Tensor
    camera: Intrinsics

    def __len__(self) -> int:
        return len(self.depths)

    def part(self, which: slice) -> Seen:
        """Some of its frames."""
        maps = (self.truth_m, self.valid, self.moved, self.places)
        return Seen(self.depths[which], self.looks[which], *(values[which] for values in maps), self.camera)

    def alone(self) -> list[Tensor]:
        """(H, W) metres by each frame."""
        return [depth.depth_m[0] for depth in self.depths]

    def score(self, depth_m: Sequence[Tensor]) -> VideoMetrics:
        """Of (H, W) metres of every frame."""
        return video_metrics(
            torch.stack(list(depth_m)),
            self.truth_m,
            valid=self.valid,
            camera_to_world=self.places,
            intrinsics=self.camera,
        )

    def covered(self, depths: Sequence[DepthMap], level: float) -> float:
        """Share of the pixels that the interval of that level holds, mean over frames."""
        shares = []
        for depth, truth, valid in zip(depths, self.truth_m, self.valid, strict=True):
            near, far = depth.interval(level)
            shares.append(float(((near[0] <= truth) & (truth <= far[0]))[valid].float().mean()))
        return sum(shares) / len(shares)


class _Kept(SteadyDepth):
    """Keeps what an attachment has for steady depth, and steadies nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.looks: list[Look] = []

    def update(self, depth: DepthMap, look: Look, place: Any = None) -> DepthMap:
        self.looks.append(look)
        return depth


def seen_by(head: str, weights: Path, frames: Sequence[ClipFrame], farthest_m: float) -> Seen:
    """A clip as a head sees it, with its camera's intrinsics."""
    kept, depths = _Kept(), []
    with torch.inference_mode(), attach_depth_head(load_host(HOST, weights=weights), head) as attachment:
        attachment.keep_steady(kept)
        for frame in frames:
            depths.append(predict(attachment, [frame.image], output_hw=(SIDE, SIDE), intrinsics=frame.intrinsics))
    truth_m = torch.stack([_at_size(frame.depth_m) for frame in frames])
    valid = (truth_m > NEAREST_M) & (truth_m < farthest_m)
    return Seen(
        depths,
        kept.looks,
        truth_m.where(valid, 1.0),
        valid,
        torch.stack([_at_size(frame.moved) for frame in frames]),
        torch.stack([torch.from_numpy(np.asarray(frame.camera_to_world, np.float64)) for frame in frames]),
        frames[0].intrinsics,
    )


def _at_size(values: Any) -> Tensor:
    """What is at the middles of the pixels of the tower's image."""
    rows, columns = (((np.arange(SIDE) + 0.5) * side / SIDE).astype(int) for side in values.shape)
    return torch.from_numpy(np.ascontiguousarray(values[rows][:, columns]))
