"""Predicted depth rescaled to known distances, since a head's scale errs more than its shapes do.

Every estimate is deterministic, stands up to wrong evidence, and is refused where the evidence does not settle it. It
trusts the evidence fully; `ScaleFilter` weighs it against what the head is worth, and is the better with few ranges.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from spaceclip_plugin._checks import real
from spaceclip_plugin.depth.camera import IntrinsicsLike
from spaceclip_plugin.depth.depth_map import DepthMap
from spaceclip_plugin.depth.exports import check_single
from spaceclip_plugin.depth.known_depth import (
    Plane,
    fit_plane,
    inside_image,
    numbers,
    pixels_under,
    plane_pixels,
    seen_at,
)
from spaceclip_plugin.depth.robust_fit import Fit, fit_scale, fit_scale_and_shift
from spaceclip_plugin.errors import ConfigError, DataError

SCALE_RANGE = (0.25, 4.0)
"""Scales beyond these are taken for a mistake: another unit, another camera, another frame."""

_MAJORITY = 0.5
_MIN_FOR_SHIFT = 12
_SPREAD_FOR_SHIFT = 1.5
_CLEAR_SHIFT = 4.0


@dataclass(frozen=True)
class Alignment:
    """How depth has to be changed to agree with what is known: `scale * depth + shift_m`.

    Example:
        >>> depth_m = torch.full((1, 4, 6), 2.0)
        >>> depth = DepthMap(depth_m, depth_m > 0, camera="wrist", frame=0, image_hw=(4, 6), trained=True)
        >>> found = align_to_ranges(depth, torch.tensor([[3.0, 2.0]]), ranges_m=torch.tensor([2.5]))
        >>> float(found.apply(depth).depth_m.mean())
        2.5

    Attributes:
        scale: factor of the depth.
        shift_m: added after it, metres; 0 where the evidence does not ask for one.
        inliers: how many pieces of evidence (ranges, contacts, pixels of the plane) agree with it.
        inlier_share: their share of those that could be used, 0 to 1.
        residual_before_m, residual_after_m: median distance of the inliers from the known depth, metres.
        relative_before, relative_after: the same as a fraction of the known depth.
    """

    scale: float
    shift_m: float
    inliers: int
    inlier_share: float
    residual_before_m: float
    residual_after_m: float
    relative_before: float
    relative_after: float

    def __post_init__(self) -> None:
        values = dataclasses.astuple(self)
        if not all(map(math.isfinite, values)) or self.scale <= 0:
            raise ConfigError(f"an alignment has a positive scale and finite values, got {values}")

    def apply(self, depth_map: DepthMap) -> DepthMap:
        """The aligned depth; uncertainty takes the scale. What a shift brings behind the camera is not `valid`."""
        depth_m = depth_map.depth_m * self.scale + self.shift_m
        sd_m = depth_map.uncertainty_m
        return dataclasses.replace(
            depth_map,
            depth_m=depth_m.clamp_min(0.0),
            valid=depth_map.valid & (depth_m >= 0.0),
            uncertainty_m=None if sd_m is None else sd_m * self.scale,
            # Metres that were measured do not hang on a lens any more that the head assumed.
            focal_length=None if depth_map.intrinsics is None else depth_map.focal_length,
        )


def align_to_ranges(
    depth: DepthMap,
    pixels_uv: Tensor,
    *,
    ranges_m: Tensor,
    tolerance: float = 0.25,
    scale_range: tuple[float, float] = SCALE_RANGE,
) -> Alignment:
    """Align to known depths at a few pixels: a range finder, markers, sparse LiDAR.

    One range is believed as it is; of several, more than half have to agree. A shift is added where at least 12 ranges
    of different distances agree on one of more than four standard errors.

    Example:
        >>> depth_m = torch.tensor([[[1.0, 2.0, 4.0]]])
        >>> depth = DepthMap(depth_m, depth_m > 0, camera=None, frame=0, image_hw=(1, 3), trained=True)
        >>> pixels_uv = torch.tensor([[0.5, 0.5], [1.5, 0.5], [2.5, 0.5]])
        >>> found = align_to_ranges(depth, pixels_uv, ranges_m=torch.tensor([1.5, 3.0, 1.0]))  # the last is wrong
        >>> round(found.scale, 6), found.inliers
        (1.5, 2)

    Args:
        depth: of one image.
        pixels_uv: (N, 2) u (right) and v (down) in pixels of `depth.image_hw`, corner convention.
        ranges_m: (N,) metres along the optical axis, not along the ray.
        tolerance: how far an inlier may be off after aligning, as a fraction.
        scale_range: what scales are believed.

    Raises:
        DataError: a value is NaN or not positive, a pixel lies beyond the image, no range has valid depth under it, no
            majority agrees, or the scale is out of range.
        ConfigError: a depth map of several images, or an impossible setting.
    """
    uv, known = numbers("pixels_uv", pixels_uv, (2,)), numbers("ranges_m", ranges_m, ())
    if len(uv) != len(known):
        raise DataError(f"{len(uv)} pixels and {len(known)} ranges were given; give one range for each pixel")
    if not (known > 0).all():
        raise DataError(f"ranges are positive metres along the optical axis, got {known.min().item()} among them")
    outside = int((~inside_image(uv, depth)).sum())
    if outside:
        height, width = depth.image_hw
        raise DataError(
            f"{outside} of {len(uv)} pixels lie beyond the image of {height}x{width} (HxW); give (u, v) in pixels of "
            "depth.image_hw, or bring the depth to the camera's image first (DepthMap.in_camera)"
        )
    return _aligned(depth, uv, known, tolerance, scale_range, "ranges")


def align_to_contacts(
    depth: DepthMap,
    intrinsics: IntrinsicsLike,
    *,
    points_m: Tensor,
    tolerance: float = 0.25,
    scale_range: tuple[float, float] = SCALE_RANGE,
) -> Alignment:
    """Align to points known in the camera frame: where the gripper touched something, or its own fingertips.

    Example:
        >>> from spaceclip_plugin.depth import Intrinsics
        >>> depth_m = torch.full((1, 40, 60), 0.5)
        >>> depth = DepthMap(depth_m, depth_m > 0, camera="wrist", frame=0, image_hw=(40, 60), trained=True)
        >>> camera = Intrinsics(50.0, 50.0, 30.0, 20.0, (40, 60))
        >>> round(align_to_contacts(depth, camera, points_m=torch.tensor([[0.1, 0.05, 0.6]])).scale, 6)
        1.2

    Args:
        depth: of one image, in which the points can be seen.
        intrinsics: as for `DepthMap.points`.
        points_m: (N, 3) metres in the camera frame, x right, y down, z forward.
        tolerance, scale_range: as for `align_to_ranges`.

    Raises:
        DataError: as for `align_to_ranges`, or a point behind the camera.
        ConfigError: a depth map of several images, intrinsics of another camera, or an impossible setting.
    """
    points = numbers("points_m", points_m, (3,))
    behind = int((points[:, 2] <= 0).sum())
    if behind:
        raise DataError(f"{behind} of {len(points)} points lie behind the camera; give points of its frame, z forward")
    uv = seen_at(points, depth, intrinsics)
    return _aligned(depth, uv, points[:, 2], tolerance, scale_range, "contact points")


def align_to_plane(
    depth: DepthMap,
    intrinsics: IntrinsicsLike,
    *,
    plane: Plane,
    mask: Tensor | None = None,
    tolerance: float = 0.1,
    min_share: float = 0.25,
    scale_range: tuple[float, float] = SCALE_RANGE,
) -> Alignment:
    """Align to a plane whose place is known, such as the table a robot is bolted to.

    Every pixel that looks at the plane gives a ratio of known to predicted depth; the scale is the median of the
    largest group of them that agrees. What stands on the plane or hides it does not. A floor parallel to a table is a
    group of its own: where two are nearly of one size, give a mask. A plane tilted by less than some 30 degrees
    against the real one still finds its group, and gives a wrong scale.

    Example:
        >>> from spaceclip_plugin.depth import Intrinsics
        >>> depth_m = torch.full((1, 40, 60), 0.5)
        >>> depth = DepthMap(depth_m, depth_m > 0, camera="wrist", frame=0, image_hw=(40, 60), trained=True)
        >>> camera = Intrinsics(50.0, 50.0, 30.0, 20.0, (40, 60))
        >>> wall = Plane((0.0, 0.0, 1.0), distance_m=0.7)
        >>> round(align_to_plane(depth, camera, plane=wall).scale, 6)
        1.4

    Args:
        depth: of one image.
        intrinsics: as for `DepthMap.points`.
        plane: in the camera frame.
        mask: (h, w) bool of the depth map's own size, True where the plane may be seen; None: anywhere.
        tolerance: how far an inlier may be off after aligning, as a fraction.
        min_share: of the pixels that look at the plane, how many have to agree.
        scale_range: what scales are believed.

    Raises:
        DataError: the plane is not seen, too few pixels agree, two groups are nearly as large, or the scale is out of
            range.
        ConfigError: a depth map of several images, a mask of another size, or an impossible setting.
    """
    real("min_share", min_share, 0.0, 1.0)
    half_width = _checked_half_width(tolerance, scale_range)
    check_single(depth, "alignment")
    _, predicted, known = plane_pixels(depth, intrinsics, plane, mask)
    fit = fit_plane(predicted, known, half_width, min_share)
    return _result(fit, scale_range)


def _aligned(
    depth: DepthMap, uv: Tensor, known: Tensor, tolerance: float, scale_range: tuple[float, float], what: str
) -> Alignment:
    """By known depths, (N,), at pixels of the image, (N, 2); pixels beyond it or without depth do not count."""
    half_width = _checked_half_width(tolerance, scale_range)
    check_single(depth, "alignment")
    inside = inside_image(uv, depth)
    rows, columns = pixels_under(uv, depth)
    predicted = depth.depth_m[0, rows, columns].detach().cpu().double()
    usable = inside & depth.valid[0, rows, columns].cpu() & (predicted > 0)
    if not usable.any():
        raise DataError(
            f"none of the {len(uv)} {what} has valid depth under it, {int((~inside).sum())} of them beyond the image "
            f"of {depth.image_hw[0]}x{depth.image_hw[1]} (HxW); give some where depth.valid is True, and check that "
            "they are of this camera"
        )
    predicted, known = predicted[usable], known[usable]
    fit = fit_scale(predicted, known, half_width)
    if _tell_a_shift(predicted):
        shifted = fit_scale_and_shift(predicted, known, tolerance, scale_range)
        if shifted is not None and _tell_a_shift(shifted.agreeing[0]):
            clear = abs(shifted.shift_m) > _CLEAR_SHIFT * shifted.shift_error_m()
            sane = scale_range[0] <= shifted.scale <= scale_range[1] and shifted.share >= fit.share
            fit = shifted if clear and sane else fit
    if fit.share <= _MAJORITY:
        raise DataError(
            f"the {what} contradict each other: at most {int(fit.inliers.sum())} of {len(predicted)} agree within "
            f"{tolerance:.0%} at any one scale, more than half must; check their units and their pixels, or give more"
        )
    return _result(fit, scale_range)


def _tell_a_shift(predicted: Tensor) -> bool:
    """Whether points at these predicted depths can tell a shift from a scale: enough of them, far enough apart."""
    if len(predicted) < _MIN_FOR_SHIFT:
        return False
    near, far = torch.quantile(predicted, predicted.new_tensor([0.1, 0.9])).tolist()
    return bool(far >= _SPREAD_FOR_SHIFT * near)


def _result(fit: Fit, scale_range: tuple[float, float]) -> Alignment:
    low, high = scale_range
    if not low <= fit.scale <= high:
        raise DataError(
            f"the evidence asks for a scale of {fit.scale:.3g}, outside {low} to {high}; check its unit and its "
            "camera, or give a wider scale_range"
        )
    predicted, known = fit.agreeing
    before, after = (predicted - known).abs(), (fit.scale * predicted + fit.shift_m - known).abs()
    medians = (float(values.median()) for values in (before, after, before / known, after / known))
    return Alignment(fit.scale, fit.shift_m, len(predicted), fit.share, *medians)


def _checked_half_width(tolerance: float, scale_range: tuple[float, float]) -> float:
    """The tolerance as a distance of logarithms."""
    low, high = scale_range
    if not 0 < low < high < math.inf:
        raise ConfigError(f"scale_range is (low, high) with 0 < low < high, got {scale_range}")
    return math.log1p(real("tolerance", tolerance, 1e-4, 1.0))
