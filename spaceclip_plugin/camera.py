"""Pinhole intrinsics through resize, crop and pad, and back-projection of depth.

Conventions: camera frame x right, y down, z forward (OpenCV, REP-118). Pixel (row v, column u) covers
[u, u+1) x [v, v+1), so its centre is (u + 0.5, v + 0.5) and the centre of a W x H image is (W/2, H/2). A calibration
that puts the first pixel's centre at (0, 0), as OpenCV's and ROS's do, needs 0.5 added to its cx and cy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from spaceclip_plugin.errors import ConfigError
from spaceclip_plugin.head.fields import number, size_hw


@dataclass(frozen=True)
class Intrinsics:
    """A pinhole camera without distortion.

    Attributes:
        fx_px, fy_px: focal lengths in pixels.
        cx_px, cy_px: principal point in pixels, corner convention.
        image_hw: size of the image they belong to, (H, W).
    """

    fx_px: float
    fy_px: float
    cx_px: float
    cy_px: float
    image_hw: tuple[int, int]

    def __post_init__(self) -> None:
        values = tuple(number(value) for value in (self.fx_px, self.fy_px, self.cx_px, self.cy_px))
        if not all(map(math.isfinite, values)) or self.fx_px <= 0 or self.fy_px <= 0:
            given = (self.fx_px, self.fy_px, self.cx_px, self.cy_px)
            raise ConfigError(f"intrinsics need finite values and positive focal lengths, got fx, fy, cx, cy = {given}")
        for name, value in zip(("fx_px", "fy_px", "cx_px", "cy_px"), values, strict=True):
            object.__setattr__(self, name, value)
        object.__setattr__(self, "image_hw", size_hw("image_hw of intrinsics", self.image_hw))

    @classmethod
    def from_matrix(cls, matrix: Tensor, image_hw: tuple[int, int]) -> Intrinsics:
        """From a 3x3 matrix K in pixels of an image of size `image_hw`.

        Raises:
            ConfigError: not 3x3, with skew, or not of the form [[fx, 0, cx], [0, fy, cy], [0, 0, 1]].
        """
        if not isinstance(matrix, Tensor) or tuple(matrix.shape) != (3, 3):
            given = f"shape {tuple(matrix.shape)}" if isinstance(matrix, Tensor) else type(matrix).__name__
            raise ConfigError(f"an intrinsics matrix is 3x3, a tensor; got {given}")
        k = matrix.detach().cpu().to(torch.float64)
        camera = cls(float(k[0, 0]), float(k[1, 1]), float(k[0, 2]), float(k[1, 2]), image_hw)
        if not torch.allclose(k, camera.matrix(), atol=1e-6):
            raise ConfigError(f"intrinsics are [[fx, 0, cx], [0, fy, cy], [0, 0, 1]] without skew, got {k.tolist()}")
        return camera

    @classmethod
    def from_fovy(cls, fovy_rad: float, image_hw: tuple[int, int]) -> Intrinsics:
        """Square pixels and a centred principal point, from the vertical field of view in radians.

        Raises:
            ConfigError: a field of view outside (0, pi).
        """
        if not 0 < fovy_rad < math.pi:
            raise ConfigError(f"a vertical field of view lies between 0 and pi radians, got {fovy_rad}")
        height, width = image_hw
        focal = 0.5 * height / math.tan(0.5 * fovy_rad)
        return cls(focal, focal, 0.5 * width, 0.5 * height, image_hw)

    def matrix(self) -> Tensor:
        """K, (3, 3) float64, in pixels."""
        rows = [[self.fx_px, 0.0, self.cx_px], [0.0, self.fy_px, self.cy_px], [0.0, 0.0, 1.0]]
        return torch.tensor(rows, dtype=torch.float64)

    def resized(self, image_hw: tuple[int, int]) -> Intrinsics:
        """The same camera after its image is resized (stretched, if the aspect ratio changes) to `image_hw`."""
        scale_y, scale_x = image_hw[0] / self.image_hw[0], image_hw[1] / self.image_hw[1]
        return Intrinsics(
            self.fx_px * scale_x, self.fy_px * scale_y, self.cx_px * scale_x, self.cy_px * scale_y, image_hw
        )

    def cropped(self, top: int, left: int, image_hw: tuple[int, int]) -> Intrinsics:
        """The same camera after a crop of size `image_hw` at (top, left); negative offsets pad."""
        return Intrinsics(self.fx_px, self.fy_px, self.cx_px - left, self.cy_px - top, image_hw)


def back_project(depth_m: Tensor, intrinsics: Intrinsics) -> Tensor:
    """Points of a depth map in the camera frame.

    Args:
        depth_m: (B, H, W) metres along the optical axis.
        intrinsics: of any resolution of the same view; rescaled to H x W.

    Returns:
        (B, H, W, 3) metres, x right, y down, z forward.
    """
    height, width = depth_m.shape[-2:]
    camera = intrinsics.resized((height, width))
    x = (torch.arange(width).to(depth_m) + 0.5 - camera.cx_px) / camera.fx_px
    y = (torch.arange(height).to(depth_m) + 0.5 - camera.cy_px) / camera.fy_px
    rays = torch.stack([*torch.meshgrid(x, y, indexing="xy"), depth_m.new_ones(height, width)], dim=-1)
    return depth_m[..., None] * rays
