"""A video of a textured corner of a room, its depth known, from a head that errs as told: for what follows frames."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from spaceclip_plugin.depth import DepthMap, Intrinsics
from spaceclip_plugin.steady import Look

SIDE, PATCH = 224, 16
CAMERA = Intrinsics(200.0, 200.0, 112.0, 112.0, (SIDE, SIDE))
_WAVES = 60


@dataclass(frozen=True)
class RoomFrame:
    """A frame: (3, 224, 224) pixels, (224, 224) true metres and (4, 4) camera to world."""

    pixels: Tensor
    depth_m: Tensor
    place: Tensor

    def look(self) -> Look:
        """How it looked, its tokens simply the pixels of each patch, coarsely."""
        fine = torch.nn.functional.avg_pool2d(self.pixels[None], 4)
        tokens = torch.nn.functional.unfold(fine, PATCH // 4 + 2, padding=1, stride=PATCH // 4)
        return Look.of(self.pixels[None], tokens.reshape(1, -1, SIDE // PATCH, SIDE // PATCH))

    def seen(self, step: int, *, factor: float = 1.0, relative_sd: float = 0.2, known: bool = True) -> DepthMap:
        """What a head gives that is off by that factor."""
        metres = (self.depth_m * factor)[None]
        return DepthMap(
            metres,
            metres > 0,
            camera="wrist",
            frame=step,
            step=step,
            image_hw=(SIDE, SIDE),
            trained=True,
            uncertainty_m=metres * relative_sd,
            intrinsics=CAMERA if known else None,
        )


def place(x_m: float = 0.0, z_m: float = 0.0, *, pan: float = 0.0) -> Tensor:
    """(4, 4) camera to world of a camera so many metres to the right and ahead, panned by so many radians."""
    cosine, sine = math.cos(pan), math.sin(pan)
    rows = [[cosine, 0.0, sine, x_m], [0.0, 1.0, 0.0, 0.0], [-sine, 0.0, cosine, z_m], [0.0, 0.0, 0.0, 1.0]]
    return torch.tensor(rows, dtype=torch.float64)


def room(at: Tensor, *, block_m: float | None = None, paint: int = 0) -> RoomFrame:
    """The room from there: a wall 3 m ahead, a floor 0.8 m below, a side wall 1.2 m to the right.

    Args:
        at: (4, 4) camera to world.
        block_m: how far to the right a textured block of 0.5 m stands, 1.6 m ahead; None: there is none.
        paint: another seed paints it all anew.
    """
    rows = (torch.arange(SIDE, dtype=torch.float64) + 0.5 - CAMERA.cy_px) / CAMERA.fy_px
    columns = (torch.arange(SIDE, dtype=torch.float64) + 0.5 - CAMERA.cx_px) / CAMERA.fx_px
    x, y = torch.meshgrid(columns, rows, indexing="xy")
    rays = torch.stack([x, y, torch.ones_like(x)], dim=-1) @ at[:3, :3].T
    origin = at[:3, 3]
    depth, colour = torch.full_like(x, 50.0), torch.zeros(3, SIDE, SIDE, dtype=torch.float64)
    surfaces = [(2, 3.0), (1, 0.8), (0, 1.2)]
    for index, (axis, where) in enumerate(surfaces):
        far = (where - origin[axis]) / rays[..., axis]
        depth, colour = _nearer(depth, colour, far, origin + rays * far[..., None], seed=paint * 10 + index)
    if block_m is not None:
        far = (1.6 - origin[2]) / rays[..., 2]
        points = origin + rays * far[..., None]
        inside = ((points[..., 0] - block_m).abs() < 0.25) & ((points[..., 1] - 0.1).abs() < 0.25)
        local = points - torch.tensor([block_m, 0.0, 0.0], dtype=torch.float64)
        depth, colour = _nearer(depth, colour, torch.where(inside, far, -1.0), local, seed=paint * 10 + 7)
    return RoomFrame(colour.float(), depth.float(), at)


def _nearer(depth: Tensor, colour: Tensor, far: Tensor, points: Tensor, *, seed: int) -> tuple[Tensor, Tensor]:
    """Depth and colour with a surface at depth `far` (negative: none) in front of what is farther."""
    generator = torch.Generator().manual_seed(seed)
    waves = torch.randn(_WAVES, 3, generator=generator, dtype=torch.float64) * 12.0
    phases = torch.rand(_WAVES, generator=generator, dtype=torch.float64) * 2 * math.pi
    mix = torch.randn(_WAVES, 3, generator=generator, dtype=torch.float64) / math.sqrt(_WAVES / 2)
    painted = (torch.sin(points @ waves.T + phases) @ mix).permute(2, 0, 1)
    here = (far > 0.05) & (far < depth)
    return torch.where(here, far, depth), torch.where(here, painted, colour)
