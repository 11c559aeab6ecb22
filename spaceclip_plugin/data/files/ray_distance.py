"""Depth along the ray, as some renderers and laser scanners give it, brought to depth along the optical axis.

Everything here is depth along the optical axis, z of the camera frame (REP-118). A map of distances from the camera's
centre, as Hypersim's `depth_meters`, is longer by what its pixel looks aside: at 45 degrees, by 41 %.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from spaceclip_plugin._checks import choice
from spaceclip_plugin.depth.camera import Intrinsics
from spaceclip_plugin.errors import ConfigError

AXIS, RAY = "axis", "ray"
DISTANCES = (AXIS, RAY)
"""What input depth is measured along: the optical axis, or the ray through each pixel."""


def distance(value: object) -> str:
    """`value` if it is one of `DISTANCES`.

    Raises:
        ConfigError: anything else.
    """
    return choice("distance", value, DISTANCES)


def along_axis(ray_m: npt.NDArray[np.float32], intrinsics: Intrinsics) -> npt.NDArray[np.float32]:
    """z = d / sqrt(1 + ((u + 1/2 - cx) / fx)^2 + ((v + 1/2 - cy) / fy)^2) at column u and row v.

    Args:
        ray_m: (H, W) metres from the camera's centre; 0 where unknown.
        intrinsics: of that map, corner convention (`camera.py`).

    Returns:
        (H, W) float32 metres along the optical axis, 0 where unknown.

    Raises:
        ConfigError: the intrinsics are of another size.
    """
    height, width = ray_m.shape
    if intrinsics.image_hw != (height, width):
        raise ConfigError(
            f"ray distance of {height}x{width} (HxW) needs intrinsics of that size, got {intrinsics.image_hw}"
        )
    x = (np.arange(width) + 0.5 - intrinsics.cx_px) / intrinsics.fx_px
    y = (np.arange(height) + 0.5 - intrinsics.cy_px) / intrinsics.fy_px
    longer = np.sqrt(1 + np.square(x)[None, :] + np.square(y)[:, None])
    axis_m: npt.NDArray[np.float32] = (ray_m / longer).astype(np.float32)
    return axis_m
