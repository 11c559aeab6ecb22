"""Evidence of how far things are: each piece says at which pixels of a depth map the depth is known."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from spaceclip_plugin._checks import real
from spaceclip_plugin.depth.camera import Intrinsics
from spaceclip_plugin.depth.depth_map import DepthMap
from spaceclip_plugin.depth.known_depth import (
    Plane,
    fit_plane,
    inside_image,
    pixels_under,
    plane_pixels,
    seen_at,
)
from spaceclip_plugin.errors import ConfigError, DataError

_PLANE_TOLERANCE = math.log1p(0.25)
_MIN_PLANE_SHARE = 0.25


@dataclass(frozen=True, eq=False)
class KnownDepth:
    """Depth known at pixels of a depth map of one image.

    Attributes:
        rows, columns: (N,) int64 on the CPU, pixels of the map.
        depth_m: (N,) float64 metres along the optical axis, finite and positive.
        sd: relative standard deviation of those metres.
        left_out: why pieces of the evidence are not among them, and how many.
    """

    rows: Tensor
    columns: Tensor
    depth_m: Tensor
    sd: float
    left_out: dict[str, int]


@runtime_checkable
class Evidence(Protocol):
    """What a `ScaleFilter` observes."""

    def known_depth(self, depth: DepthMap) -> KnownDepth:
        """Where in this image which depth is known; DataError, with the reason, where it is not seen at all."""
        ...


@dataclass(frozen=True, eq=False)
class Ranges:
    """Depth measured at a few pixels: a range finder, markers, sparse LiDAR.

    Example:
        >>> Ranges(torch.tensor([[112.0, 90.0]]), torch.tensor([1.25]), sd=0.02).sd
        0.02

    Attributes:
        pixels_uv: (N, 2) u (right) and v (down) in pixels of `DepthMap.image_hw`, corner convention.
        ranges_m: (N,) metres along the optical axis, not along the ray. What is not finite and positive is no return.
        sd: relative standard deviation of the ranges.

    Raises:
        DataError: not tensors of these shapes.
        ConfigError: sd is not between 0 and 1.
    """

    pixels_uv: Tensor
    ranges_m: Tensor
    sd: float = 0.01

    def __post_init__(self) -> None:
        _shaped("pixels_uv", self.pixels_uv, (2,))
        _shaped("ranges_m", self.ranges_m, ())
        real("sd", self.sd, 0.0, 1.0)
        if len(self.pixels_uv) != len(self.ranges_m):
            raise DataError(f"{len(self.pixels_uv)} pixels and {len(self.ranges_m)} ranges; give one for each pixel")

    def known_depth(self, depth: DepthMap) -> KnownDepth:
        """Where the ranges were measured."""
        return _at_pixels(depth, _double(self.pixels_uv), _double(self.ranges_m), self.sd)


@dataclass(frozen=True, eq=False)
class Contacts:
    """Points known in the camera frame: where the gripper touched something, its own fingertips, known corners.

    Example:
        >>> Contacts(torch.tensor([[0.1, 0.05, 0.6]])).points_m.shape
        torch.Size([1, 3])

    Attributes:
        points_m: (N, 3) metres, x right, y down, z forward; they have to be visible.
        sd: relative standard deviation of their z.

    Raises:
        DataError: not a tensor of that shape.
        ConfigError: sd is not between 0 and 1.
    """

    points_m: Tensor
    sd: float = 0.02

    def __post_init__(self) -> None:
        _shaped("points_m", self.points_m, (3,))
        real("sd", self.sd, 0.0, 1.0)

    def known_depth(self, depth: DepthMap) -> KnownDepth:
        """Where the points are seen; those behind the camera count as no return."""
        points = _double(self.points_m)
        return _at_pixels(depth, seen_at(points, depth, _camera_of(depth)), points[:, 2], self.sd)


@dataclass(frozen=True, eq=False)
class PlaneSeen:
    """A plane of known place, such as the table a robot is bolted to.

    Without a mask it is the largest group of pixels that lie on it within 25 % at one scale; what stands on it or hides
    it is no part of that.

    Example:
        >>> PlaneSeen(Plane((0.0, 0.0, 1.0), distance_m=0.7)).plane.distance_m
        0.7

    Attributes:
        plane: in the camera frame.
        mask: (h, w) bool of the depth map's own size, True where nothing but the plane is seen; None: anywhere.
        sd: relative standard deviation of its distance.

    Raises:
        ConfigError: sd is not between 0 and 1.
    """

    plane: Plane
    mask: Tensor | None = None
    sd: float = 0.01

    def __post_init__(self) -> None:
        real("sd", self.sd, 0.0, 1.0)

    def known_depth(self, depth: DepthMap) -> KnownDepth:
        """The pixels that look at the plane."""
        looking, predicted, known = plane_pixels(depth, _camera_of(depth), self.plane, self.mask)
        rows, columns = looking.nonzero(as_tuple=True)
        on_it = torch.ones_like(rows, dtype=torch.bool)
        if self.mask is None:
            on_it = fit_plane(predicted, known, _PLANE_TOLERANCE, _MIN_PLANE_SHARE).inliers
        left_out = {"not on the plane": int((~on_it).sum())}
        return KnownDepth(rows[on_it], columns[on_it], known[on_it], self.sd, left_out)


@dataclass(frozen=True, eq=False)
class CameraHeight:
    """The camera's height above a floor that it sees.

    Example:
        >>> CameraHeight(1.2).floor().distance_m  # of a camera that looks level, y down
        1.2

    Attributes:
        height_m: above the floor, metres.
        up: what is upwards in the camera frame, of any length, as an IMU or the robot's kinematics tell it.
        mask, sd: as for `PlaneSeen`.

    Raises:
        ConfigError: the height is not positive, `up` is no direction, or sd is not between 0 and 1.
    """

    height_m: float
    up: tuple[float, float, float] = (0.0, -1.0, 0.0)
    mask: Tensor | None = None
    sd: float = 0.02

    def __post_init__(self) -> None:
        real("height_m", self.height_m, 1e-3, 1e4)
        real("sd", self.sd, 0.0, 1.0)
        self.floor()

    def floor(self) -> Plane:
        """The plane that the camera stands above."""
        x, y, z = self.up
        down = (-x, -y, -z)
        length = math.hypot(*down)
        return Plane.through(tuple(self.height_m * part / (length or 1.0) for part in down), down)  # type: ignore[arg-type]

    def known_depth(self, depth: DepthMap) -> KnownDepth:
        """The pixels that look at the floor."""
        return PlaneSeen(self.floor(), self.mask, self.sd).known_depth(depth)


@dataclass(frozen=True, eq=False)
class KnownObject:
    """An object of known size, seen square on: two of its ends in the image are so many metres apart.

    Example:
        >>> mug = KnownObject(((100.0, 80.0), (100.0, 120.0)), size_m=0.095)  # its height
        >>> camera = Intrinsics(200.0, 200.0, 112.0, 112.0, (224, 224))
        >>> depth_m = torch.full((1, 56, 56), 0.5)
        >>> depth = DepthMap(depth_m, depth_m > 0, camera="wrist", frame=0, image_hw=(224, 224), trained=True)
        >>> round(mug.known_depth(depth.with_intrinsics(camera)).depth_m.item(), 3)
        0.475

    Attributes:
        ends_uv: two pixels of `DepthMap.image_hw`, (u, v) each; the object is seen half way between them.
        size_m: metres from one end to the other, at one depth.
        sd: relative standard deviation of the depth, from that of the extent in pixels and from how square on it is.

    Raises:
        ConfigError: the ends are one or not finite, the size is not positive, or sd is not between 0 and 1.
    """

    ends_uv: tuple[tuple[float, float], tuple[float, float]]
    size_m: float
    sd: float = 0.05

    def __post_init__(self) -> None:
        real("size_m", self.size_m, 1e-4, 1e4)
        real("sd", self.sd, 0.0, 1.0)
        (u, v), (other_u, other_v) = self.ends_uv
        if not 0 < math.hypot(u - other_u, v - other_v) < math.inf:
            raise ConfigError(f"an object's ends are two pixels that differ, got {self.ends_uv}")

    def known_depth(self, depth: DepthMap) -> KnownDepth:
        """The pixel half way between the ends."""
        camera = _camera_of(depth)
        (u, v), (other_u, other_v) = self.ends_uv
        extent = math.hypot((u - other_u) / camera.fx_px, (v - other_v) / camera.fy_px)
        middle = torch.tensor([[(u + other_u) / 2, (v + other_v) / 2]], dtype=torch.float64)
        return _at_pixels(depth, middle, middle.new_tensor([self.size_m / extent]), self.sd)


def _at_pixels(depth: DepthMap, uv: Tensor, known_m: Tensor, sd: float) -> KnownDepth:
    """Known depth at pixels of the image, less what is no measurement and what has no depth under it."""
    measured = known_m.isfinite() & (known_m > 0) & uv.isfinite().all(dim=-1)
    inside = measured & inside_image(uv, depth)
    rows, columns = pixels_under(uv.nan_to_num(0.0, 0.0, 0.0), depth)
    usable = inside & (depth.valid[0, rows, columns] & (depth.depth_m[0, rows, columns] > 0)).cpu()
    counts = [int(some.sum()) for some in (~measured, measured & ~inside, inside & ~usable)]
    left_out = dict(zip(("not finite and positive", "beyond the image", "without valid depth"), counts, strict=True))
    return KnownDepth(rows.cpu()[usable], columns.cpu()[usable], known_m[usable], sd, left_out)


def _camera_of(depth: DepthMap) -> Intrinsics:
    if depth.intrinsics is None:
        raise ConfigError(
            "the camera of this depth map is not known: give it where the head is attached, or "
            "depth.with_intrinsics(Intrinsics(…))"
        )
    return depth.intrinsics


def _double(values: Tensor) -> Tensor:
    return values.detach().cpu().double()


def _shaped(name: str, values: Tensor, row: tuple[int, ...]) -> None:
    if not isinstance(values, Tensor) or values.ndim < 1 or values.shape[1:] != row:
        given = f"shape {tuple(values.shape)}" if isinstance(values, Tensor) else type(values).__name__
        raise DataError(f"{name} is a tensor (N{''.join(f', {n}' for n in row) or ','}), got {given}")
