"""Colour of the surfaces that rays meet.

Textured matt surfaces with highlights under a point light (Lambert, Blinn-Phong), cast shadows, and soft light that
nearby objects dim. Vectors are stored as (3, N).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from spaceclip_worlds.render.intersection import Hits, Solids
from spaceclip_worlds.render.scene import Light, Material, Scene, Vector
from spaceclip_worlds.render.textures import TextureBank, texture_bank

_HIGHLIGHT_EXPONENT = 40.0
_EXPOSURE = 1.4
# Fraction of the way to the light within which a surface may not shadow itself.
_SHADOW_MARGIN = 1e-3


def shade(
    scene: Scene, solids: Solids, directions: Tensor, hits: Hits, *, pixel_rad: float, shadows: bool = True
) -> Tensor:
    """Colour what the camera's rays meet.

    Args:
        scene: materials, light and camera.
        solids: the same scene as arrays.
        directions: (3, N) float32 rays from the camera.
        hits: where they end.
        pixel_rad: angle between neighbouring rays, for the sharpness of textures.
        shadows: whether primitives block the light.

    Returns:
        (3, N) float32 RGB in [0, 1], ready for display.
    """
    points = _column(scene.camera.position_m) + hits.distance * directions
    surface = _surface_at(solids, points, hits.solid)
    view = _unit(directions)

    facing = (-surface.normal * view).sum(0).clamp_min_(0.05)
    # A pixel covers more where the surface slants; this is the geometric mean of its two sides.
    footprint_m = pixel_rad * hits.distance * facing.rsqrt()
    albedo, gloss = _paint(scene, surface, footprint_m)

    from_light = points - _column(scene.light.position_m)
    distance_squared = from_light.square().sum(0)
    to_light = -from_light * distance_squared.rsqrt()
    incidence = (surface.normal * to_light).sum(0).clamp_min_(0.0)
    if shadows:
        _cast_shadows(scene.light, solids, from_light, incidence)
    halfway = (surface.normal * _unit(to_light - view)).sum(0).clamp_min_(0.0)
    highlight = torch.where(incidence > 0.0, 0.5 * gloss * halfway**_HIGHLIGHT_EXPONENT, 0.0)

    sky = 0.75 + 0.25 * surface.normal[2]
    soft = scene.light.ambient * sky * _openness(solids, points, surface.normal)
    direct = _column(scene.light.colour) / distance_squared
    linear = albedo * (soft + direct * incidence) + direct * highlight
    # Saturate smoothly instead of clipping, then a display gamma of 2.
    return (1.0 - torch.exp(-_EXPOSURE * linear)).sqrt_()


@dataclass(frozen=True, eq=False)
class _Surface:
    """Unit normal (3, N), texture position uv_m (2, N) in metres, and material (N,): 0, 1, 2 are the room's."""

    normal: Tensor
    uv_m: Tensor
    material: Tensor


def _surface_at(solids: Solids, points: Tensor, solid: Tensor) -> _Surface:
    """Normals and texture positions of points on solids."""
    count = len(solids.round_axes)
    is_round = np.arange(3) < np.array(solids.round_axes)[:, None]
    table = _float32(solids.to_unit.reshape(count, 9), solids.centre_m, solids.half_extents_m, is_round)
    rows = table.T.contiguous().index_select(1, solid)
    to_unit, centre, half, round_mask = rows[:9].view(3, 3, -1), rows[9:12], rows[12:15], rows[15:]

    # In the solid's own frame: a point is on its round part, or on the slab whose face it reaches.
    unit = (to_unit * (points - centre)).sum(1)
    rounded = unit * round_mask
    flat = unit - rounded
    reach = flat.abs()
    farthest = reach.amax(0)
    on_round = rounded.square().sum(0) > farthest.square()
    gradient = torch.where(on_round, rounded, flat.sign() * (reach == farthest)) / half
    # The room is seen from inside.
    own_normal = _unit(torch.where(solid == 0, -gradient, gradient))
    normal = (to_unit * (half * own_normal)[:, None]).sum(0)

    # Textures are projected along the axis that the surface faces most.
    x, y, z = unit * half
    slant_x, slant_y, slant_z = own_normal.abs()
    uv_m = torch.stack(
        [
            torch.where(slant_x > torch.maximum(slant_y, slant_z), y, x),
            torch.where(slant_z > torch.maximum(slant_x, slant_y), y, z),
        ]
    )
    # Of the room, up is 1 on the floor, 0 on the walls and -1 on the ceiling.
    up = normal[2].round().to(torch.int64)
    return _Surface(normal, uv_m, torch.where(solid == 0, 1 - up, solid + 2))


def _paint(scene: Scene, surface: _Surface, footprint_m: Tensor) -> tuple[Tensor, Tensor]:
    """Linear albedo (3, N) and gloss (N,)."""
    room = scene.room
    materials: Sequence[Material] = [room.floor, room.walls, room.ceiling, *(s.material for s in scene.primitives)]
    looks = [(*item.colour, *item.second_colour, item.gloss, 1.0 / item.tile_m) for item in materials]
    textures = torch.from_numpy(np.array([TextureBank.index(item.texture, item.variant) for item in materials]))
    rows = _float32(np.array(looks)).T.contiguous().index_select(1, surface.material)
    texture, per_metre = textures.index_select(0, surface.material), rows[7]
    mix = texture_bank().sample(texture, surface.uv_m * per_metre, footprint=footprint_m * per_metre)
    return torch.lerp(rows[:3], rows[3:6], mix).square_(), rows[6]


def _cast_shadows(light: Light, solids: Solids, from_light: Tensor, incidence: Tensor) -> None:
    """Put out the light in place where a primitive stands in its way; faces turned away are dark already."""
    lit = incidence.nonzero().squeeze(1)
    blocked = solids.blocked(light.position_m, from_light.index_select(1, lit), margin=_SHADOW_MARGIN)
    incidence.index_fill_(0, lit.masked_select(blocked), 0.0)


def _openness(solids: Solids, points: Tensor, normal: Tensor) -> Tensor:
    """(N,) share of the soft light that primitives let through, each taken as the sphere inside it.

    A sphere of radius r at distance d and angle a from the normal hides r^2 cos(a) / d^2 of the hemisphere
    (Quilez, Sphere ambient occlusion). Convex solids lie behind their own surfaces and never hide themselves.
    """
    centre, radius = solids.centre_m[1:], solids.half_extents_m[1:].min(1, keepdims=True)
    one = np.ones_like(radius)
    # Height over the tangent plane and squared distance are bilinear in sphere and point, hence one product each.
    height = _float32(centre, -one) @ torch.cat([normal, (normal * points).sum(0, keepdim=True)])
    norm_squared = points.square().sum(0, keepdim=True)
    sphere = _float32((centre**2).sum(1, keepdims=True), -2.0 * centre, one)
    distance_squared = sphere @ torch.cat([torch.ones_like(norm_squared), points, norm_squared])
    inverse = torch.maximum(distance_squared, _float32(radius**2)).rsqrt_()
    cosine_per_square = height.clamp_min_(0.0) * (inverse * inverse * inverse)
    hidden = _float32(radius**2).T @ cosine_per_square
    return (1.0 - hidden.squeeze(0)).clamp_min_(0.25)


def _float32(*columns: npt.NDArray[np.float64] | npt.NDArray[np.bool_]) -> Tensor:
    return torch.from_numpy(np.concatenate(columns, axis=1).astype(np.float32))


def _column(vector: Vector) -> Tensor:
    return torch.from_numpy(np.array(vector, dtype=np.float32)[:, None])


def _unit(vectors: Tensor) -> Tensor:
    # torch's normalize takes ten times as long over a leading axis of three.
    return vectors * vectors.square().sum(0).rsqrt_()
