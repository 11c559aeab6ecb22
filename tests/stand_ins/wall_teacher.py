"""A teacher whose depth is told by the photo, and data whose true depth is: brightness is metres."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from spaceclip_plugin.depth import Intrinsics
from spaceclip_plugin.teaching import TeacherCard

HW = (24, 32)


class WallTeacher:
    """Metres are `factor` times what the photo says, red over 50; inverse depth half its inverse and a tenth."""

    def __init__(self, *, factor: float = 0.5, gives: str = "metres", weights: str = "wall") -> None:
        self.card = TeacherCard(
            "wall:1", gives, f"{weights} {factor}", lens="takes none", range_m=(0.0, 10.0), license="cc-by-nc-4.0"
        )
        self.factor = factor
        self.asked = 0

    def depth(self, photos: np.ndarray, intrinsics: Sequence[Intrinsics | None]) -> np.ndarray:
        self.asked += 1
        metres = photos[..., 0].astype(np.float32) / 50
        if self.card.metric:
            return metres * np.float32(self.factor)
        return (0.5 / np.maximum(metres, 0.02) + 0.1).astype(np.float32)


def photo(index: int) -> np.ndarray:
    """A ramp from about 1 to 3 metres, another one in each photo."""
    ramp = np.linspace(50 + index, 150 + index, HW[1])[None].repeat(HW[0], axis=0)
    return np.stack([ramp, np.full(HW, index * 3), np.zeros(HW)], axis=2).astype(np.uint8)


def save_photos(folder: Path, count: int = 6, *, measured: Sequence[int] = (), lens: bool = False) -> Path:
    """`rgb`, and true depth in `depth` of those that are measured."""
    (folder / "rgb").mkdir(parents=True)
    for index in range(count):
        Image.fromarray(photo(index)).save(folder / "rgb" / f"{index:02}.png")
        if index in measured:
            (folder / "depth").mkdir(exist_ok=True)
            np.save(folder / "depth" / f"{index:02}.npy", photo(index)[..., 0].astype(np.float32) / 50)
    if lens:
        (folder / "intrinsics.json").write_text(json.dumps({"fx": 30.0, "fy": 30.0, "cx": 16.0, "cy": 12.0}))
    return folder
