"""Rendered tabletops whose table is known, and depth spoilt as heads spoil it."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from spaceclip_plugin.depth.camera import Intrinsics
from spaceclip_plugin.depth.depth_map import DepthMap
from spaceclip_plugin.depth.known_depth import Plane
from spaceclip_worlds.render.raycaster import Rendering, render
from spaceclip_worlds.render.scene import Scene
from spaceclip_worlds.render.tabletop import random_tabletop

HW = (84, 112)
SCALES = [0.7, 0.9, 1.0, 1.15, 1.4]


def depth_map(depth_m: Tensor, **fields: object) -> DepthMap:
    """Of one image; known where positive."""
    height, width = depth_m.shape
    made = DepthMap(depth_m[None].float(), depth_m[None] > 0, None, 0, (height, width), True)
    return dataclasses.replace(made, **fields)  # type: ignore[arg-type]


def smooth_noise(seed: int, hw: tuple[int, int], deviation: float) -> Tensor:
    """(H, W) factors about 1 that vary over a fifth of the image, as a head's errors do."""
    coarse = torch.randn(1, 1, 5, 5, generator=torch.Generator().manual_seed(seed))
    field = F.interpolate(coarse, size=hw, mode="bicubic")[0, 0]
    return 1 + deviation * field / field.std()


@dataclasses.dataclass(frozen=True, eq=False)
class Table:
    """A rendered tabletop: its true depth, its camera and its table."""

    depth_m: Tensor
    on_table: Tensor
    camera: Intrinsics
    plane: Plane


def table(seed: int) -> Table:
    scene = random_tabletop(np.random.default_rng(seed))
    seen: Rendering = render(scene, HW, shadows=False)
    on_table = torch.from_numpy(seen.primitive == 0)
    return Table(torch.from_numpy(seen.depth_m), on_table, seen.intrinsics, table_plane(scene))


def table_plane(scene: Scene) -> Plane:
    top = scene.primitives[0]
    point = np.add(top.centre_m, (0.0, 0.0, top.half_extents_m[2]))
    world_to_camera: npt.NDArray[np.float64] = scene.camera.rotation.T
    in_camera = world_to_camera @ (point - scene.camera.position_m)
    x, y, z = (world_to_camera @ np.array([0.0, 0.0, 1.0])).tolist()
    return Plane.through((in_camera[0], in_camera[1], in_camera[2]), (x, y, z))


@pytest.fixture(scope="module")
def tables() -> list[Table]:
    return [table(seed) for seed in (1, 2, 3, 4)]


def random_pixels(seed: int, count: int, hw: tuple[int, int]) -> Tensor:
    fractions = torch.rand(count, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return fractions * torch.tensor([hw[1], hw[0]])


def at(depth_m: Tensor, uv: Tensor) -> Tensor:
    return depth_m[uv[:, 1].long(), uv[:, 0].long()].double()


def wrong(known_m: Tensor, share: float, seed: int) -> Tensor:
    """The first so many replaced: by anything, or (one-sided, the harder case) by what is far too near."""
    generator = torch.Generator().manual_seed(seed)
    count = round(share * len(known_m))
    factors = torch.rand(count, generator=generator, dtype=torch.float64) * 0.5 + 0.2
    if seed % 2:
        factors = torch.where(torch.rand(count, generator=generator) < 0.5, factors, 1 / factors)
    return torch.cat([known_m[:count] * factors, known_m[count:]])
