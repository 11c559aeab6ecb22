"""What the ray-caster draws: primitives with a pose in a closed room, one light, one camera.

World frame: z up, metres, floor wherever the room says. Camera frame: x right, y down, z forward.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import Enum

import numpy as np
import numpy.typing as npt

from spaceclip_plugin.errors import ConfigError, nearest
from spaceclip_worlds.render.textures import TEXTURE_NAMES, TEXTURE_VARIANTS

Vector = tuple[float, float, float]
Rotation = npt.NDArray[np.float64]


class Shape(Enum):
    """Solids that fill the unit cube [-1, 1]^3 of their own frame; a cylinder stands along its z axis."""

    BOX = "box"
    CYLINDER = "cylinder"
    ELLIPSOID = "ellipsoid"


@dataclass(frozen=True)
class Material:
    """A matt, textured surface with an optional highlight.

    Attributes:
        colour, second_colour: sRGB in [0, 1]; the texture mixes the two.
        texture: one of `textures.TEXTURE_NAMES`.
        variant: which of its variants, 0 to TEXTURE_VARIANTS - 1.
        tile_m: metres after which the texture repeats.
        gloss: strength of the highlight, 0 (matt) to 1.
    """

    colour: Vector
    second_colour: Vector
    texture: str = "plain"
    variant: int = 0
    tile_m: float = 0.3
    gloss: float = 0.0

    def __post_init__(self) -> None:
        if not all(0.0 <= value <= 1.0 for value in (*self.colour, *self.second_colour, self.gloss)):
            raise ConfigError(f"colours and gloss lie between 0 and 1, got {self}")
        if self.texture not in TEXTURE_NAMES:
            hint = nearest(self.texture, TEXTURE_NAMES)
            raise ConfigError(f"unknown texture {self.texture!r}{hint}; known: {', '.join(TEXTURE_NAMES)}")
        if not 0 <= self.variant < TEXTURE_VARIANTS:
            raise ConfigError(f"texture variants are 0 to {TEXTURE_VARIANTS - 1}, got {self.variant}")
        if not (math.isfinite(self.tile_m) and self.tile_m > 0.0):
            raise ConfigError(f"tile_m must be positive and finite, got {self.tile_m}")


@dataclass(frozen=True, eq=False)
class Primitive:
    """A solid somewhere in the room. Seen from inside it is invisible.

    Attributes:
        shape: box, cylinder or ellipsoid.
        centre_m: position of its centre in the world.
        half_extents_m: half its size along its own axes.
        material: how it looks.
        rotation: (3, 3) primitive-to-world.
    """

    shape: Shape
    centre_m: Vector
    half_extents_m: Vector
    material: Material
    rotation: Rotation = field(default_factory=lambda: np.eye(3))

    def __post_init__(self) -> None:
        _require_finite("centre_m", self.centre_m)
        _require_finite("half_extents_m", self.half_extents_m)
        if min(self.half_extents_m) <= 0.0:
            raise ConfigError(f"half_extents_m must be positive, got {self.half_extents_m}")
        _require_rotation(self.rotation)


@dataclass(frozen=True)
class Room:
    """The axis-aligned box around everything; it closes the scene, so every pixel has a depth.

    Attributes:
        low_m, high_m: opposite corners; the floor lies at low_m[2].
        floor, walls, ceiling: how they look.
    """

    low_m: Vector
    high_m: Vector
    floor: Material
    walls: Material
    ceiling: Material

    def __post_init__(self) -> None:
        _require_finite("low_m", self.low_m)
        _require_finite("high_m", self.high_m)
        if not all(low < high for low, high in zip(self.low_m, self.high_m, strict=True)):
            raise ConfigError(f"a room needs low_m < high_m along every axis, got {self.low_m} and {self.high_m}")

    def contains(self, position_m: Vector) -> bool:
        """Whether a point lies inside, walls excluded."""
        return all(low < value < high for low, value, high in zip(self.low_m, position_m, self.high_m, strict=True))


@dataclass(frozen=True)
class Light:
    """A point light and the soft light that comes from everywhere.

    Attributes:
        position_m: in the world.
        colour: linear intensity of red, green and blue; 1 lights a white surface fully from one metre.
        ambient: strength of the soft light, on the same scale.
    """

    position_m: Vector
    colour: Vector = (2.0, 2.0, 2.0)
    ambient: float = 0.4

    def __post_init__(self) -> None:
        _require_finite("position_m", self.position_m)
        if not all(math.isfinite(value) and value >= 0.0 for value in (*self.colour, self.ambient)):
            raise ConfigError(
                f"light must be finite and not negative, got colour {self.colour}, ambient {self.ambient}"
            )


@dataclass(frozen=True, eq=False)
class Camera:
    """A pinhole camera with square pixels and a centred principal point.

    Attributes:
        position_m: optical centre in the world.
        rotation: (3, 3) camera-to-world; its columns are the camera's right, down and forward in the world.
        fovy_rad: vertical field of view.
    """

    position_m: Vector
    rotation: Rotation
    fovy_rad: float

    def __post_init__(self) -> None:
        _require_finite("position_m", self.position_m)
        _require_rotation(self.rotation)
        if not 0.0 < self.fovy_rad < math.pi:
            raise ConfigError(f"fovy_rad lies between 0 and pi, got {self.fovy_rad}")

    @classmethod
    def looking_at(cls, position_m: Vector, target_m: Vector, *, fovy_rad: float, roll_rad: float = 0.0) -> Camera:
        """Upright towards a target, then rolled clockwise about the optical axis.

        Raises:
            ConfigError: the target is the position, or straight above or below it.
        """
        forward = np.subtract(target_m, position_m)
        right = np.cross(forward, (0.0, 0.0, 1.0))
        if not np.linalg.norm(right) > 1e-6 * max(1.0, float(np.linalg.norm(forward))):
            raise ConfigError(f"cannot look from {position_m} to {target_m}: that leaves the upright direction open")
        forward, right = forward / np.linalg.norm(forward), right / np.linalg.norm(right)
        upright = np.stack([right, np.cross(forward, right), forward], axis=1)
        return cls(position_m, upright @ rotation_about((0.0, 0.0, 1.0), roll_rad), fovy_rad)

    def pose(self) -> npt.NDArray[np.float64]:
        """(4, 4) camera to world: the rotation and the optical centre above the row 0 0 0 1."""
        pose = np.eye(4)
        pose[:3, :3], pose[:3, 3] = self.rotation, self.position_m
        return pose

    def depth_of(self, point_m: Vector) -> float:
        """Metres from the camera to a point along the optical axis; negative behind the camera."""
        return float(np.dot(self.rotation[:, 2], np.subtract(point_m, self.position_m)))


@dataclass(frozen=True, eq=False)
class Scene:
    """All that one picture needs. Camera and light lie inside the room, primitives wherever they like."""

    room: Room
    camera: Camera
    light: Light
    primitives: tuple[Primitive, ...] = ()

    def __post_init__(self) -> None:
        for name, position in (("camera", self.camera.position_m), ("light", self.light.position_m)):
            if not self.room.contains(position):
                raise ConfigError(
                    f"the {name} at {position} is outside the room, which spans {self.room.low_m} to {self.room.high_m}"
                )


def rotation_about(axis: Vector, angle_rad: float) -> Rotation:
    """(3, 3) rotation by the right-hand rule about a unit axis (Rodrigues' formula)."""
    x, y, z = axis
    cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    rotation: Rotation = np.eye(3) + math.sin(angle_rad) * cross + (1.0 - math.cos(angle_rad)) * (cross @ cross)
    return rotation


def _require_finite(name: str, vector: Vector) -> None:
    if len(vector) != 3 or not all(map(math.isfinite, vector)):
        raise ConfigError(f"{name} needs three finite values in metres, got {vector}")


def _require_rotation(rotation: Rotation) -> None:
    if rotation.shape != (3, 3):
        raise ConfigError(f"a rotation is 3x3, got shape {rotation.shape}")
    if not (np.abs(rotation @ rotation.T - np.eye(3)).max() < 1e-6 and np.linalg.det(rotation) > 0.0):
        raise ConfigError(f"a rotation is orthonormal and right-handed, got {rotation.tolist()}")
