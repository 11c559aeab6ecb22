"""Pinhole intrinsics through resize, crop and pad. Camera frames are x right, y down, z forward (OpenCV, REP-118)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from spaceclip_plugin._checks import number, reals, size_hw
from spaceclip_plugin.errors import ConfigError

# Shares of a side by which a principal point may be off the middle. Calibrated cameras stay below a twentieth; a K of
# half or twice the size is off by a quarter or more. Without a size, a K of 256 pixels must not pass for one of 224.
_MAX_OFF_CENTRE = 1 / 8
_MAX_OFF_CENTRE_OF_MATRIX = 1 / 16
_SAME_CAMERA = 0.02  # of a side of the image
_LIKELY_FIELD_OF_VIEW_DEG = (10.0, 150.0)  # beyond: a telescope, a fisheye that is no pinhole, or a K of another size


FocalLength: TypeAlias = tuple[float, float]
"""Focal lengths (fx, fy) in units of an image's width and height: 0.5 / tan(half the field of view), along each."""

_FOCAL_LENGTHS = (0.05, 50.0)  # 169 degrees, more than any pinhole camera sees, to 1.1, a telescope


@dataclass(frozen=True)
class Intrinsics:
    """A pinhole camera without distortion.

    Pixel (row v, column u) covers [u, u+1) x [v, v+1), so the centre of a W x H image is (W/2, H/2): the corner
    convention. A calibration with the first pixel's centre at (0, 0), as OpenCV's and ROS's, needs 0.5 added to cx, cy.

    Example:
        >>> camera = Intrinsics(fx_px=600.0, fy_px=600.0, cx_px=320.0, cy_px=240.0, image_hw=(480, 640))
        >>> camera.resized((240, 320)).fx_px
        300.0
        >>> [round(angle) for angle in camera.field_of_view_deg()]
        [44, 56]

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
        names = ("fx_px", "fy_px", "cx_px", "cy_px")
        for name, given in zip(names, [getattr(self, name) for name in names], strict=True):
            object.__setattr__(self, name, number(given))
            if not math.isfinite(getattr(self, name)) or (name in names[:2] and getattr(self, name) <= 0):
                raise ConfigError(f"intrinsics need finite values and positive focal lengths, got {name}={given!r}")
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

    def mapped(
        self, scale_xy: tuple[float, float], offset_xy: tuple[float, float], image_hw: tuple[int, int]
    ) -> Intrinsics:
        """The same camera after each axis of its image went through `scale * pixels + offset`, to size `image_hw`."""
        (scale_x, scale_y), (offset_x, offset_y) = scale_xy, offset_xy
        cx_px, cy_px = self.cx_px * scale_x + offset_x, self.cy_px * scale_y + offset_y
        return Intrinsics(self.fx_px * scale_x, self.fy_px * scale_y, cx_px, cy_px, image_hw)

    def resized(self, image_hw: tuple[int, int]) -> Intrinsics:
        """The same camera after its image is resized (stretched, if the aspect ratio changes) to `image_hw`."""
        scale_y, scale_x = image_hw[0] / self.image_hw[0], image_hw[1] / self.image_hw[1]
        return self.mapped((scale_x, scale_y), (0.0, 0.0), image_hw)

    def cropped(self, top: int, left: int, image_hw: tuple[int, int]) -> Intrinsics:
        """The same camera after a crop of size `image_hw` at (top, left); negative offsets pad."""
        return self.mapped((1.0, 1.0), (-left, -top), image_hw)

    @property
    def focal_length(self) -> FocalLength:
        """Focal lengths over the image's width and height: what no resize changes, be it a stretch."""
        height, width = self.image_hw
        return self.fx_px / width, self.fy_px / height

    @classmethod
    def from_focal_length(cls, focal_length: FocalLength, image_hw: tuple[int, int]) -> Intrinsics:
        """A centred principal point, from focal lengths over the image's width and height.

        Raises:
            ConfigError: not two finite, positive numbers.
        """
        (x, y), (height, width) = checked_focal_length(focal_length), image_hw
        return cls(x * width, y * height, 0.5 * width, 0.5 * height, image_hw)

    def field_of_view_deg(self) -> tuple[float, float]:
        """(vertical, horizontal) angle in degrees from one border of the image to the other."""
        height, width = self.image_hw
        vertical = math.atan(self.cy_px / self.fy_px) + math.atan((height - self.cy_px) / self.fy_px)
        horizontal = math.atan(self.cx_px / self.fx_px) + math.atan((width - self.cx_px) / self.fx_px)
        return math.degrees(vertical), math.degrees(horizontal)


def checked_focal_length(value: object, *, name: str = "focal_length") -> FocalLength:
    """The value as a `FocalLength`; ConfigError for one that no camera has, such as pixels."""
    x, y = reals(name, value, *_FOCAL_LENGTHS, length=2)
    return x, y


def focal_in_words(focal_length: FocalLength) -> str:
    """A focal length, and the field of view that it means, width first, for messages."""
    height_deg, width_deg = Intrinsics.from_focal_length(focal_length, (1, 1)).field_of_view_deg()
    x, y = focal_length
    return f"{x:.4g} x {y:.4g} of the image's width and height ({width_deg:.0f} x {height_deg:.0f} degrees)"


def lens_scale(to: FocalLength, of: FocalLength) -> float:
    """What metres read as if by a camera of focal length `of` are multiplied by, where the camera has `to`.

    The geometric mean of both axes: what looks as large through a lens twice as long is twice as far (Yin et al.,
    "Metric3D", 2023, section 3.2), and a stretch along one axis counts half. It is 1, exactly, where both are equal.
    """
    return math.sqrt((to[0] / of[0]) * (to[1] / of[1]))


def check_whole_image(intrinsics: object, *, whose: str) -> Intrinsics:
    """Intrinsics of a whole camera's image as a user states them; ConfigError for those that no such image has."""
    if not isinstance(intrinsics, Intrinsics):
        raise ConfigError(
            f"the intrinsics of {whose} are Intrinsics(fx_px, fy_px, cx_px, cy_px, image_hw), got "
            f"{type(intrinsics).__name__}; of a matrix K: Intrinsics.from_matrix(K, image_hw=(H, W))"
        )
    if not principal_point_inside(intrinsics):
        raise ConfigError(
            f"{whose}: the principal point cx={intrinsics.cx_px:g}, cy={intrinsics.cy_px:g} lies outside an image of "
            f"{_sized(intrinsics.image_hw)} pixels (HxW); check the size that they belong to"
        )
    low, high = _LIKELY_FIELD_OF_VIEW_DEG
    for side, angle in zip(("high", "wide"), intrinsics.field_of_view_deg(), strict=True):
        if not low <= angle <= high:
            raise ConfigError(f"{whose}: {_field_of_view(intrinsics, side, angle)}")
    return intrinsics


MatrixLike: TypeAlias = Tensor | npt.NDArray[np.floating[Any]] | Sequence[Sequence[float]]
"""A 3x3 matrix K, in pixels of an image whose size it does not tell."""

IntrinsicsLike: TypeAlias = Intrinsics | MatrixLike
"""`Intrinsics` of the image at any resolution, or a 3x3 matrix K, which carries no size: see `DepthMap.points`."""


def intrinsics_of_whole_image(matrix: MatrixLike, image_hw: tuple[int, int]) -> Intrinsics:
    """Intrinsics from a matrix K without a size; ConfigError where it can hardly be of a whole image of `image_hw`."""
    if not isinstance(matrix, Tensor):
        try:
            matrix = torch.from_numpy(np.array(matrix, dtype=np.float64))
        except (TypeError, ValueError) as error:
            raise ConfigError(f"intrinsics are Intrinsics or a 3x3 matrix, got {matrix!r}") from error
    camera = Intrinsics.from_matrix(matrix, image_hw)
    off_centre = _off_centre(camera, _MAX_OFF_CENTRE_OF_MATRIX, allowed_px=1.0)
    if off_centre:
        raise ConfigError(
            f"a 3x3 matrix carries no image size, and this one is not taken for that of {_sized(image_hw)} pixels "
            f"(HxW): {off_centre}. Give the size it belongs to: Intrinsics.from_matrix(K, image_hw=(H, W))"
        )
    return camera


def questionable(intrinsics: Intrinsics) -> str | None:
    """Why these are hardly the intrinsics of a whole image of their size, in words; None where they may well be.

    Not for crops and what `ImageMapping` makes, whose principal point is anywhere, and rightly so.
    """
    off_centre = _off_centre(intrinsics, _MAX_OFF_CENTRE)
    if off_centre:
        return f"{off_centre}. Check the image size that they belong to, and the order fx, fy, cx, cy"
    low, high = _LIKELY_FIELD_OF_VIEW_DEG
    for side, angle in zip(("high", "wide"), intrinsics.field_of_view_deg(), strict=True):
        if not low <= angle <= high:
            return _field_of_view(intrinsics, side, angle)
    return None


def _field_of_view(intrinsics: Intrinsics, side: str, angle: float) -> str:
    return (
        f"fx={intrinsics.fx_px:g}, fy={intrinsics.fy_px:g} of an image of {_sized(intrinsics.image_hw)} pixels (HxW) "
        f"mean a field of view {angle:.1f} degrees {side}. Check the image size that they belong to, and that they are "
        "in pixels"
    )


def principal_point_inside(intrinsics: Intrinsics) -> bool:
    """Whether the optical axis goes through the image; of a whole camera's image it does."""
    height, width = intrinsics.image_hw
    return 0 < intrinsics.cx_px < width and 0 < intrinsics.cy_px < height


def same_aspect(one_hw: tuple[int, int], other_hw: tuple[int, int]) -> bool:
    """Whether one size is the other's resized as a whole: the same aspect ratio, a pixel of rounding aside."""
    (rows, columns), (height, width) = sorted((one_hw, other_hw), key=lambda hw: hw[0] * hw[1])
    return min(abs(columns - rows * width / height), abs(rows - columns * height / width)) <= 1


def are_alike(one: Intrinsics, other: Intrinsics) -> bool:
    """Whether intrinsics of one image are the same but for what two calibrations of a camera differ by."""
    height, width = one.image_hw
    return all(
        abs(getattr(one, name) - getattr(other, name)) <= _SAME_CAMERA * side
        for name, side in (("fx_px", width), ("cx_px", width), ("fy_px", height), ("cy_px", height))
    )


def same_lens(one: FocalLength, other: FocalLength) -> bool:
    """Whether focal lengths are the same but for what two calibrations of a camera differ by."""
    return all(abs(a - b) <= _SAME_CAMERA for a, b in zip(one, other, strict=True))


def in_words(camera: Intrinsics) -> str:
    """Focal lengths and principal point, for messages."""
    return f"fx={camera.fx_px:g}, fy={camera.fy_px:g}, cx={camera.cx_px:g}, cy={camera.cy_px:g}"


def _off_centre(camera: Intrinsics, allowed_share: float, *, allowed_px: float = 0.0) -> str | None:
    """That the principal point is further from the middle than this share of a side, and what may be the cause."""
    (height, width), (cx, cy) = camera.image_hw, (camera.cx_px, camera.cy_px)
    if all(abs(c - side / 2) <= max(allowed_share * side, allowed_px) for c, side in ((cx, width), (cy, height))):
        return None
    likely = ""
    if min(cx, cy) >= 1:
        likely = f"; it would be that of about {_sized((round(2 * cy), round(2 * cx)))} (HxW)"
    elif 0 < max(cx, cy) <= 1:
        likely = "; these look like fractions of the image's sides, not pixels"
    return (
        f"the principal point cx={cx:g}, cy={cy:g} is far from the middle ({0.5 * width:g}, {0.5 * height:g}) of an "
        f"image of {_sized(camera.image_hw)} pixels (HxW){likely}"
    )


def _sized(hw: tuple[int, int]) -> str:
    return f"{hw[0]}x{hw[1]}"


def back_project(depth_m: Tensor, intrinsics: Intrinsics) -> Tensor:
    """Points of a depth map in the camera frame.

    Example:
        >>> camera = Intrinsics(fx_px=2.0, fy_px=2.0, cx_px=1.0, cy_px=0.5, image_hw=(1, 2))
        >>> back_project(torch.tensor([[[1.0, 2.0]]]), camera).tolist()
        [[[[-0.25, 0.0, 1.0], [0.5, 0.0, 2.0]]]]

    Args:
        depth_m: (B, H, W) metres along the optical axis.
        intrinsics: of any resolution of the same image; rescaled to H x W.

    Returns:
        (B, H, W, 3) metres, x right, y down, z forward.
    """
    height, width = depth_m.shape[-2:]
    camera = intrinsics.resized((height, width))
    x = (torch.arange(width).to(depth_m) + 0.5 - camera.cx_px) / camera.fx_px
    y = (torch.arange(height).to(depth_m) + 0.5 - camera.cy_px) / camera.fy_px
    rays = torch.stack([*torch.meshgrid(x, y, indexing="xy"), depth_m.new_ones(height, width)], dim=-1)
    return depth_m[..., None] * rays
