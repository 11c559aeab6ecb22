"""Render a scene to an image and its exact metric depth, on the CPU, without OpenGL or assets.

Geometry is exact to float32. Light is only meant to look right: see `shading`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from spaceclip_plugin import Intrinsics
from spaceclip_plugin.errors import ConfigError
from spaceclip_worlds.render.intersection import Hits, Solids
from spaceclip_worlds.render.scene import Camera, Scene
from spaceclip_worlds.render.shading import shade


@dataclass(frozen=True, eq=False)
class Rendering:
    """A picture of a scene and the truth behind it.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        depth_m: (H, W) float32 metres along the optical axis at pixel centres; positive and finite everywhere.
        primitive: (H, W) int16 index into `scene.primitives`, -1 where the room shows.
        intrinsics: of image and depth.
    """

    image: npt.NDArray[np.uint8]
    depth_m: npt.NDArray[np.float32]
    primitive: npt.NDArray[np.int16]
    intrinsics: Intrinsics


@torch.no_grad()
def render(scene: Scene, image_hw: tuple[int, int], *, supersample: int = 1, shadows: bool = True) -> Rendering:
    """Draw a scene.

    Args:
        scene: what to draw.
        image_hw: size of the picture, (H, W) pixels.
        supersample: colour is averaged over supersample^2 rays per pixel; depth always is that of the pixel's centre.
        shadows: whether primitives block the light.

    Raises:
        ConfigError: the picture is smaller than 1x1, or supersample is below 1.
    """
    if min(image_hw) < 1:
        raise ConfigError(f"a picture has at least 1x1 pixels, got image_hw={image_hw}")
    if supersample < 1:
        raise ConfigError(f"supersample is the number of rays along each side of a pixel, 1 or more, got {supersample}")
    height, width = image_hw
    solids = Solids.pack(scene.room, scene.primitives)
    intrinsics = Intrinsics.from_fovy(scene.camera.fovy_rad, image_hw)
    directions, hits = _look(scene.camera, solids, intrinsics)
    if supersample == 1:
        colour = shade(scene, solids, directions, hits, pixel_rad=1.0 / intrinsics.fy_px, shadows=shadows)
        colour = colour.reshape(3, height, width)
    else:
        fine = intrinsics.resized((height * supersample, width * supersample))
        directions, fine_hits = _look(scene.camera, solids, fine)
        colour = shade(scene, solids, directions, fine_hits, pixel_rad=1.0 / fine.fy_px, shadows=shadows)
        colour = torch.nn.functional.avg_pool2d(colour.reshape(3, *fine.image_hw), supersample)
    image = (colour * 255.0 + 0.5).to(torch.uint8).permute(1, 2, 0).contiguous()
    depth = hits.distance.reshape(height, width)
    primitive = (hits.solid - 1).to(torch.int16).reshape(height, width)
    return Rendering(image.numpy(), depth.numpy(), primitive.numpy(), intrinsics)


def _look(camera: Camera, solids: Solids, intrinsics: Intrinsics) -> tuple[Tensor, Hits]:
    """Directions (3, H * W) through all pixel centres, and what they meet.

    A direction is one metre long along the optical axis, so its multiple at the hit is the depth.
    """
    height, width = intrinsics.image_hw
    rays = np.ones((3, height, width))
    rays[0] = (np.arange(width) + 0.5 - intrinsics.cx_px) / intrinsics.fx_px
    rays[1] = (np.arange(height)[:, None] + 0.5 - intrinsics.cy_px) / intrinsics.fy_px
    directions = torch.from_numpy(camera.rotation @ rays.reshape(3, -1)).to(torch.float32)
    return directions, solids.first_hits(camera.position_m, directions)
