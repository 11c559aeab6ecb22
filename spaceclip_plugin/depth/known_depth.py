"""What is known of an image's depth from elsewhere: planes and points, and the pixels at which they are seen."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import Self

from spaceclip_plugin.depth.camera import IntrinsicsLike
from spaceclip_plugin.depth.depth_map import DepthMap
from spaceclip_plugin.depth.robust_fit import Fit, fit_scale, largest_cluster
from spaceclip_plugin.errors import ConfigError, DataError

_MIN_PLANE_PIXELS = 50
_GRAZING = math.sin(math.radians(5.0))
_AMBIGUOUS = 0.7


@dataclass(frozen=True)
class Plane:
    """The points x of the camera frame with `normal . x = distance_m`.

    Example:
        >>> Plane.through((0.0, 0.4, 1.0), (0.0, -2.0, 0.0))
        Plane(normal=(0.0, -1.0, 0.0), distance_m=-0.4)

    Attributes:
        normal: of length 1, pointing either way; x right, y down, z forward.
        distance_m: from the camera's centre along the normal, not 0; negative where the normal points to the camera.

    Raises:
        ConfigError: the normal is not of length 1, the camera lies in the plane, or a value is not finite.
    """

    normal: tuple[float, float, float]
    distance_m: float

    def __post_init__(self) -> None:
        length = math.hypot(*self.normal)
        if len(self.normal) != 3 or not abs(length - 1.0) < 1e-3:
            raise ConfigError(f"a plane's normal is three numbers of length 1, got {self.normal}; see Plane.through")
        if not (math.isfinite(self.distance_m) and abs(self.distance_m) > 1e-6):
            raise ConfigError(f"a plane lies at a finite distance other than 0 m, got {self.distance_m}")

    @classmethod
    def through(cls, point_m: tuple[float, float, float], normal: tuple[float, float, float]) -> Self:
        """The plane through a point of the camera frame, at right angles to a direction of any length.

        Raises:
            ConfigError: the direction is 0, the camera lies in the plane, or a value is not finite.
        """
        length = math.hypot(*normal)
        if not 0 < length < math.inf:
            raise ConfigError(f"a plane's normal is a direction, got {normal}")
        x, y, z = (part / length for part in normal)
        return cls((x, y, z), x * point_m[0] + y * point_m[1] + z * point_m[2])


def plane_pixels(
    depth: DepthMap, intrinsics: IntrinsicsLike, plane: Plane, mask: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Of the one image: (h, w) bool, which pixels look at the plane; their predicted and known depth, (N,) each.

    Raises:
        DataError: hardly any does.
        ConfigError: a mask of another size or type, or as for `DepthMap.points`.
    """
    points = depth.points(intrinsics)[0].detach().cpu().double()
    looking = (depth.valid[0] & (depth.depth_m[0] > 0)).cpu()
    if mask is not None:
        if mask.dtype != torch.bool or tuple(mask.shape) != tuple(looking.shape):
            raise ConfigError(f"mask is bool of shape {tuple(looking.shape)}, got {mask.dtype}, {tuple(mask.shape)}")
        looking = looking & mask.cpu()
    valid = int(looking.sum())
    along = points @ points.new_tensor(plane.normal) * math.copysign(1.0, plane.distance_m)
    looking = looking & (along > _GRAZING * points.norm(dim=-1))
    predicted = depth.depth_m[0].detach().cpu().double()[looking]  # points may be in metres of another lens
    if len(predicted) < _MIN_PLANE_PIXELS:
        raise DataError(
            f"the plane is not seen: {len(predicted)} of {valid} valid pixels look at it, at least "
            f"{_MIN_PLANE_PIXELS} must; check that plane and intrinsics are of this camera"
        )
    return looking, predicted, points[..., 2][looking] * abs(plane.distance_m) / along[looking]


def fit_plane(predicted_m: Tensor, known_m: Tensor, half_width: float, min_share: float) -> Fit:
    """The scale at which most pixels lie on the plane; DataError where too few do, or two scales are as good."""
    fit = fit_scale(predicted_m, known_m, half_width)
    if fit.share < min_share:
        raise DataError(
            f"the plane is not seen: at no scale do more than {fit.share:.0%} of the {len(predicted_m)} pixels that "
            f"look at it lie within {math.expm1(half_width):.0%} of it, {min_share:.0%} were expected; give a mask of "
            "the plane, or check where it is"
        )
    others = (known_m / predicted_m)[~fit.inliers].log()
    if len(others):
        rival = largest_cluster(others, half_width)
        centre = others[rival].median().exp().item()
        apart = abs(math.log(centre / fit.scale)) > 3 * half_width
        if apart and int(rival.sum()) > _AMBIGUOUS * int(fit.inliers.sum()):
            raise DataError(
                f"scales of {fit.scale:.3g} and {centre:.3g} both bring a surface to the plane, of {fit.inliers.sum()} "
                f"and {rival.sum()} pixels; give a mask of the plane"
            )
    return fit


def seen_at(points_m: Tensor, depth: DepthMap, intrinsics: IntrinsicsLike) -> Tensor:
    """(N, 2) pixels of the image at which points before the camera, (N, 3), are seen."""
    camera = depth.tower_intrinsics(intrinsics).resized(depth.image_hw)
    focal = points_m.new_tensor([camera.fx_px, camera.fy_px])
    return points_m[:, :2] / points_m[:, 2:] * focal + points_m.new_tensor([camera.cx_px, camera.cy_px])


def pixels_under(uv: Tensor, depth: DepthMap) -> tuple[Tensor, Tensor]:
    """Rows and columns of the depth map under pixels (N, 2) of its image; those beyond it at its border."""
    (rows, columns), (height, width) = depth.depth_m.shape[1:], depth.image_hw
    row = (uv[:, 1] * rows / height).long().clamp(0, rows - 1)
    column = (uv[:, 0] * columns / width).long().clamp(0, columns - 1)
    return row.to(depth.depth_m.device), column.to(depth.depth_m.device)


def inside_image(uv: Tensor, depth: DepthMap) -> Tensor:
    """(N,) bool, which pixels lie in the depth map's image."""
    return ((uv >= 0) & (uv < uv.new_tensor([depth.image_hw[1], depth.image_hw[0]]))).all(dim=-1)


def numbers(name: str, values: Tensor, row: tuple[int, ...]) -> Tensor:
    """(N, *row) finite float64 on the CPU, N at least 1."""
    if not isinstance(values, Tensor) or not values.numel() or values.ndim < 1 or values.shape[1:] != row:
        given = f"shape {tuple(values.shape)}" if isinstance(values, Tensor) else type(values).__name__
        raise DataError(
            f"{name} is a tensor (N{''.join(f', {n}' for n in row) or ','}) with N of at least 1, got {given}"
        )
    numbers = values.detach().cpu().double()
    bad = int((~numbers.isfinite()).reshape(len(numbers), -1).any(dim=1).sum())
    if bad:
        raise DataError(f"{bad} of {len(numbers)} {name} are NaN or infinite; leave them out")
    return numbers
