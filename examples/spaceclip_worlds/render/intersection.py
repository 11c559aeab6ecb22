"""Where rays that share an origin first meet the solids of a scene, exactly.

Every solid fills [-1, 1]^3 of its own frame and is an intersection of slabs and of one round part (a cylinder or
ellipsoid of radius 1), so a ray is inside it during one interval: the intersection of the parts' intervals.
Vectors are stored as (3, N) so that each component is contiguous.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from spaceclip_worlds.render.scene import Primitive, Room, Shape, Vector

_ROUND_AXES = {Shape.BOX: 0, Shape.CYLINDER: 2, Shape.ELLIPSOID: 3}
_TINY = 1e-12
# Float32 tells cosines near 1 apart to 6e-8; a wider cone costs a few rays, a narrower one would cut off edges.
_COSINE_SLACK = 1e-6


@dataclass(frozen=True, eq=False)
class Hits:
    """The first surface along each ray.

    Attributes:
        distance: (N,) float32 in lengths of the ray's direction vector.
        solid: (N,) int64; 0 is the room, 1 + i is primitive i.
    """

    distance: Tensor
    solid: Tensor


@dataclass(frozen=True, eq=False)
class Solids:
    """The room and the primitives as arrays; the room comes first and is met from inside.

    Attributes:
        round_axes: how many leading axes of each solid are round: 0 (box), 2 (cylinder) or 3 (ellipsoid).
        centre_m: (K, 3) float64.
        half_extents_m: (K, 3) float64.
        to_unit: (K, 3, 3) float64, maps world offsets from the centre into [-1, 1]^3.
    """

    round_axes: tuple[int, ...]
    centre_m: npt.NDArray[np.float64]
    half_extents_m: npt.NDArray[np.float64]
    to_unit: npt.NDArray[np.float64]

    @classmethod
    def pack(cls, room: Room, primitives: Sequence[Primitive]) -> Solids:
        """Collect poses and sizes."""
        low, high = np.array(room.low_m), np.array(room.high_m)
        centre = np.array([0.5 * (low + high), *(solid.centre_m for solid in primitives)])
        half = np.array([0.5 * (high - low), *(solid.half_extents_m for solid in primitives)])
        rotation = np.array([np.eye(3), *(solid.rotation for solid in primitives)])
        round_axes = (0, *(_ROUND_AXES[solid.shape] for solid in primitives))
        return cls(round_axes, centre, half, rotation.transpose(0, 2, 1) / half[:, :, None])

    def first_hits(self, origin_m: Vector, directions: Tensor) -> Hits:
        """Meet rays from one point with room and primitives.

        Args:
            origin_m: inside the room.
            directions: (3, N) float32, of any length but zero.
        """
        unit_origin, to_unit = self._seen_from(origin_m)
        _, distance = _slab_interval(unit_origin[0], to_unit[0] @ directions)
        hits = Hits(distance, torch.zeros_like(distance, dtype=torch.int64))
        self._meet_primitives(origin_m, directions, hits)
        return hits

    def blocked(self, origin_m: Vector, directions: Tensor, *, margin: float) -> Tensor:
        """(N,) bool: whether a primitive lies between the origin and the fraction 1 - `margin` of each direction."""
        limit = torch.full_like(directions[0], 1.0 - margin)
        hits = Hits(limit, torch.zeros_like(limit, dtype=torch.int64))
        self._meet_primitives(origin_m, directions, hits)
        return hits.solid > 0

    def _seen_from(self, origin_m: Vector) -> tuple[Tensor, Tensor]:
        # The origin is subtracted in float64: float32 would cost digits where solids are small and far.
        unit_origin = self.to_unit @ (np.array(origin_m) - self.centre_m)[:, :, None]
        return torch.from_numpy(unit_origin).to(torch.float32), torch.from_numpy(self.to_unit).to(torch.float32)

    def _meet_primitives(self, origin_m: Vector, directions: Tensor, hits: Hits) -> None:
        """Shorten `hits` in place wherever a primitive is nearer."""
        unit_origin, to_unit = self._seen_from(origin_m)
        near_rays = _rays_near_spheres(self, origin_m, directions)
        for solid in range(1, len(self.round_axes)):
            rays = near_rays[solid].nonzero().squeeze(1)
            if len(rays) == 0:
                continue
            unit_directions = to_unit[solid] @ directions.index_select(1, rays)
            enter, leave = _interval(self.round_axes[solid], unit_origin[solid], unit_directions)
            nearer = (enter > 0.0) & (enter < torch.minimum(leave, hits.distance.index_select(0, rays)))
            changed = rays.masked_select(nearer)
            hits.distance.index_copy_(0, changed, enter.masked_select(nearer))
            hits.solid.index_fill_(0, changed, solid)


def _rays_near_spheres(solids: Solids, origin_m: Vector, directions: Tensor) -> Tensor:
    """(K, N) bool: rays that may meet each solid, because they lie in the cone around its bounding sphere."""
    offset = solids.centre_m - np.array(origin_m)
    distance = np.linalg.norm(offset, axis=1)
    radius = np.linalg.norm(solids.half_extents_m, axis=1)
    sine = np.minimum(radius / np.maximum(distance, _TINY), 1.0)
    # An origin inside the sphere sees it everywhere.
    cosine = np.where(sine < 1.0, np.sqrt(1.0 - sine**2) - _COSINE_SLACK, -2.0)
    axis = torch.from_numpy(offset / np.maximum(distance, _TINY)[:, None]).to(torch.float32)
    unit = directions * directions.square().sum(0).rsqrt_()
    return axis @ unit >= torch.from_numpy(cosine).to(torch.float32)[:, None]


def _interval(round_axes: int, origin: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    """When rays enter and leave a solid of the unit cube; enter > leave where they miss.

    Args:
        round_axes: 0, 2 or 3 leading axes are round, the rest are slabs.
        origin: (3, 1) in the solid's frame.
        directions: (3, N) in the solid's frame.
    """
    if round_axes == 0:
        return _slab_interval(origin, directions)
    round_enter, round_leave = _round_interval(origin[:round_axes], directions[:round_axes])
    if round_axes == 3:
        return round_enter, round_leave
    slab_enter, slab_leave = _slab_interval(origin[round_axes:], directions[round_axes:])
    return torch.maximum(round_enter, slab_enter), torch.minimum(round_leave, slab_leave)


def _slab_interval(origin: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    """Inside -1 <= x <= 1 along every given axis.

    A ray along a slab gives infinities, which are right; one that runs exactly within a face gives NaN, which no
    comparison accepts: a miss. From inside the room neither matters.
    """
    slope = directions.reciprocal()
    first, second = (-1.0 - origin) * slope, (1.0 - origin) * slope
    return torch.minimum(first, second).amax(0), torch.maximum(first, second).amin(0)


def _round_interval(origin: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    """Inside the unit circle or sphere over the given axes.

    The discriminant is formed from the ray's closest point, which keeps digits where b^2 - ac would cancel
    (Haines et al., Precision Improvements for Ray/Sphere Intersection, Ray Tracing Gems 2019, chapter 7).
    """
    square = directions.square().sum(0).clamp_min_(_TINY)
    middle = -(origin * directions).sum(0) / square
    closest = origin + middle * directions
    inside = 1.0 - closest.square().sum(0)
    half = (inside.clamp_min(0.0) / square).sqrt_()
    # A miss becomes an interval that never begins.
    return torch.where(inside > 0.0, middle - half, math.inf), middle + half
