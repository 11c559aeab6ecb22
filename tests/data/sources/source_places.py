"""Three or more samples of every kind of data in the registry, small and all different."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

import lerobot_stand_in
import numpy as np
from PIL import Image
from wall_teacher import WallTeacher

from spaceclip_plugin.bridges.lerobot.dataset import LeRobotData
from spaceclip_plugin.data.sources.depth_list import ListData
from spaceclip_plugin.data.sources.image_folder import FolderData
from spaceclip_plugin.data.sources.spec import SourceSpec
from spaceclip_plugin.teaching import TaughtData, TeachOptions, teach
from spaceclip_worlds.metaworld.spec import MetaWorldData
from spaceclip_worlds.render.tabletop import SceneData

COUNT = 4
HEIGHT, WIDTH = 4, 5


def image(index: int) -> np.ndarray:
    return np.random.default_rng([0, index]).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def depth_mm(index: int) -> np.ndarray:
    values = np.random.default_rng([1, index]).integers(500, 9000, (HEIGHT, WIDTH)).astype(np.uint16)
    values[0, index] = 0
    return values


def save_folders(folder: Path) -> None:
    """Photos in `rgb` and depth in `depth`."""
    for kind, make in (("rgb", image), ("depth", depth_mm)):
        (folder / kind).mkdir(parents=True)
        for index in range(COUNT):
            Image.fromarray(make(index)).save(folder / kind / f"{index}.png")


def listed(base: Path) -> SourceSpec:
    save_folders(base / "kitchen")
    lines = [f"rgb/{index}.png depth/{index}.png 500\n" for index in range(COUNT)]
    (base / "kitchen" / "train.txt").write_text("".join(lines))
    return ListData("kitchen/train.txt")


def folder(base: Path) -> SourceSpec:
    save_folders(base / "kitchen")
    return FolderData("kitchen")


def lerobot(base: Path) -> SourceSpec:
    frames = [np.stack([make(index) for index in range(COUNT)]) for make in (image, depth_mm)]
    lerobot_stand_in.save(base / "kitchen", *frames)
    return LeRobotData("kitchen")


def scenes(base: Path) -> SourceSpec:
    return SceneData(COUNT, seed=3, height_px=8, width_px=10)


def metaworld(base: Path) -> SourceSpec:
    return MetaWorldData(COUNT, seed=3, height_px=8, width_px=10, cache=str(base / "drawn"))


def taught(base: Path) -> SourceSpec:
    save_folders(base / "photos")
    shutil.rmtree(base / "photos" / "depth")  # which is no depth of these photos
    teach(FolderData(str(base / "photos")), WallTeacher(), base / "kitchen", options=TeachOptions(progress=False))
    return TaughtData("kitchen")


PLACES: Mapping[str, Callable[[Path], SourceSpec]] = MappingProxyType(
    {"list": listed, "folder": folder, "lerobot": lerobot, "scenes": scenes, "metaworld": metaworld, "taught": taught}
)
"""By name in the registry: makes data below a folder and says where, relative to it."""

NO_PLACE = frozenset({"scenes", "metaworld"})
"""Kinds that are computed, and cannot be absent."""

DRAWN = frozenset({"metaworld"})
"""Kinds that need a simulator and OpenGL to be read, and seconds to start them."""
