"""Endless tabletop scenes: a table with small objects in a room, seen by one lens from varied places.

The lens is fixed, so metric depth can be read from a single picture; depths run from about 0.3 to 3 m.
"""

from __future__ import annotations

import colorsys
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np
from typing_extensions import Self

from spaceclip_plugin.data import DepthSample
from spaceclip_plugin.errors import ConfigError
from spaceclip_worlds.checks import shown, whole
from spaceclip_worlds.render.raycaster import render
from spaceclip_worlds.render.scene import (
    Camera,
    Light,
    Material,
    Primitive,
    Room,
    Scene,
    Shape,
    Vector,
    rotation_about,
)
from spaceclip_worlds.render.textures import TEXTURE_VARIANTS

FOVY_RAD = math.radians(50.0)
_WOODEN = frozenset({"wood", "planks"})
_NEAREST_OBJECT_M = 0.3
_MAX = 10**9
_LARGEST_SIDE_PX = 4096
_UP = (0.0, 0.0, 1.0)
_TABLE_TEXTURES = ("wood", "wood", "planks", "plain", "cloudy", "marble", "checker", "stripes")
_FLOOR_TEXTURES = ("planks", "tiles", "cloudy", "speckle", "checker", "marble")
_WALL_TEXTURES = ("plain", "plain", "plain", "planks", "tiles", "stripes")
_OBJECT_TEXTURES = ("plain", "plain", "cloudy", "wood", "stripes", "checker", "dots", "speckle", "marble")


@dataclass(frozen=True)
class SceneData:
    """Rendered tabletops as a config or a command line names them; see `TabletopScenes`.

    Attributes:
        count: how many.
        seed: validation needs another than training.
        height_px, width_px: size of image and depth.
    """

    kind: ClassVar[str] = "scenes"
    count: int
    seed: int = 0
    height_px: int = 112
    width_px: int = 112

    def __post_init__(self) -> None:
        whole("count of scenes", self.count, 1, _MAX)
        whole("seed of scenes", self.seed, 0, _MAX)
        whole("height_px of scenes", self.height_px, 1, _LARGEST_SIDE_PX)
        whole("width_px of scenes", self.width_px, 1, _LARGEST_SIDE_PX)

    @classmethod
    def from_text(cls, text: str) -> Self:
        """From "COUNT" or "COUNT:SEED".

        Raises:
            ConfigError: anything else.
        """
        if re.fullmatch("[0-9]{1,10}(:[0-9]{1,10})?", text) is None:
            raise ConfigError(f"expected COUNT or COUNT:SEED after 'scenes:', such as scenes:400, got {shown(text)}")
        return cls(*(int(number) for number in text.split(":")))

    @property
    def title(self) -> str:
        """How many there are, and the seed where it is not 0."""
        return f"scenes ({self.count})" if self.seed == 0 else f"scenes ({self.count}, seed {self.seed})"

    def resolved(self, base: Path) -> Self:
        """Itself: there are no paths."""
        return self

    def open(self, *, units_per_metre: float, skip_bad: bool = False) -> TabletopScenes:
        """The scenes; they are in metres and none is bad."""
        return TabletopScenes(self.count, image_hw=(self.height_px, self.width_px), seed=self.seed)


@dataclass(frozen=True)
class TabletopScenes:
    """A `DepthSource` of rendered tabletops.

    Scene i depends on the seed and on i alone. Reading it again gives the same bits on the same machine with the same
    number of torch threads; elsewhere, the last bit of a few pixels may differ.

    Attributes:
        count: how many scenes, at least 1.
        image_hw: size of image and depth, (H, W) pixels.
        seed: not negative; different seeds share no scene.

    Raises:
        ConfigError: one of them is out of range.
    """

    exact_depth: ClassVar[bool] = True
    count: int
    image_hw: tuple[int, int] = field(default=(112, 112), kw_only=True)
    seed: int = field(default=0, kw_only=True)

    def __post_init__(self) -> None:
        if self.count < 1 or min(self.image_hw) < 1 or self.seed < 0:
            raise ConfigError(
                "tabletop scenes need count >= 1, an image of at least 1x1 pixels and seed >= 0, "
                f"got count={self.count}, image_hw={self.image_hw}, seed={self.seed}"
            )

    def __len__(self) -> int:
        return self.count

    def named_with(self, seed: int) -> str:
        """How a command line and a config name as many scenes of another seed."""
        return f"scenes:{self.count}:{seed} on the command line (COUNT:SEED), or seed: {seed} in a config"

    def __getitem__(self, index: int) -> DepthSample:
        """Render scene `index`.

        Raises:
            IndexError: not in 0 ... count - 1.
        """
        if not 0 <= index < self.count:
            raise IndexError(f"scene {index} of {self.count}; scenes are counted from 0")
        # A spawn key keeps (seed, index) apart from every other pair, whatever their sizes.
        generator = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(index,)))
        rendering = render(random_tabletop(generator), self.image_hw)
        name = f"tabletop seed {self.seed} scene {index}"
        return DepthSample(rendering.image, rendering.depth_m, name, rendering.intrinsics)


def random_tabletop(generator: np.random.Generator) -> Scene:
    """Draw one scene: a room, a table with up to 12 objects of 3-8 cm, furniture behind it, a light and a camera.

    Primitive 0 is the table top, then come its legs (1 or 4), the objects and the furniture.
    """
    room = _room(generator)
    table = _table(generator)
    x, y = generator.uniform(-0.4, 0.4, 2).tolist()
    target = (x * table.half_x_m, y * table.half_y_m, table.top_m + generator.uniform(0.0, 0.05))
    camera = _camera(generator, target)
    parts = _table_parts(generator, table)
    objects = _objects(generator, table, target, camera)
    furniture = _furniture(generator, room, table, camera)
    return Scene(room, camera, _light(generator, table), (*parts, *objects, *furniture))


@dataclass(frozen=True)
class _Table:
    """A table at the origin, rectangular or round."""

    half_x_m: float
    half_y_m: float
    top_m: float
    is_round: bool

    def holds(self, x: float, y: float, radius: float) -> bool:
        """Whether a disc lies on the table as a whole."""
        if self.is_round:
            return math.hypot(x, y) + radius <= self.half_x_m
        return abs(x) + radius <= self.half_x_m and abs(y) + radius <= self.half_y_m


def _table(generator: np.random.Generator) -> _Table:
    half_x, half_y, top = generator.uniform((0.35, 0.3, 0.45), (0.55, 0.5, 0.75)).tolist()
    is_round = bool(generator.random() < 0.25)
    return _Table(half_x, half_x if is_round else half_y, top, is_round)


def _table_parts(generator: np.random.Generator, table: _Table) -> list[Primitive]:
    """The top, then one leg in the middle (round) or four at the corners."""
    half_top, leg = generator.uniform((0.008, 0.02), (0.02, 0.035)).tolist()
    half_leg = 0.5 * table.top_m - half_top
    top_material = _material(generator, _TABLE_TEXTURES, tile_m=(0.25, 0.6), vivid=0.25)
    leg_material = _material(generator, ("plain", "wood"), tile_m=(0.2, 0.4), vivid=0.1)
    if table.is_round:
        shape, places = Shape.CYLINDER, [(0.0, 0.0)]
    else:
        x, y = table.half_x_m - 2.0 * leg, table.half_y_m - 2.0 * leg
        shape, places = Shape.BOX, [(x, y), (x, -y), (-x, y), (-x, -y)]
    top_half = (table.half_x_m, table.half_y_m, half_top)
    top = Primitive(shape, (0.0, 0.0, table.top_m - half_top), top_half, top_material)
    return [top, *(Primitive(shape, (x, y, half_leg), (leg, leg, half_leg), leg_material) for x, y in places)]


def _objects(generator: np.random.Generator, table: _Table, target: Vector, camera: Camera) -> list[Primitive]:
    """Boxes, cylinders (some lying) and ellipsoids that rest on the table without touching each other."""
    objects: list[Primitive] = []
    taken: list[Vector] = []  # x, y and radius of the ground each object covers
    for _ in range(int(generator.integers(4, 13))):
        shape = (Shape.BOX, Shape.CYLINDER, Shape.ELLIPSOID)[generator.integers(3)]
        half_x, half_y, half_z = generator.uniform(0.015, 0.04, 3).tolist()
        rotation = rotation_about(_UP, generator.uniform(0.0, 2.0 * math.pi))
        rise, radius = half_z, math.hypot(half_x, half_y)
        if shape is Shape.CYLINDER:
            half_y = half_x
            if generator.random() < 0.3:
                rotation = rotation @ rotation_about((1.0, 0.0, 0.0), 0.5 * math.pi)
                rise, radius = half_y, math.hypot(half_x, half_z)
        material = _material(generator, _OBJECT_TEXTURES, tile_m=(0.04, 0.15), vivid=0.65)
        for x, y in generator.normal(target[:2], 0.17, (8, 2)).tolist():
            centre = (x, y, table.top_m + rise)
            apart = all(math.hypot(x - other_x, y - other_y) > radius + other for other_x, other_y, other in taken)
            if apart and table.holds(x, y, radius) and camera.depth_of(centre) > radius + _NEAREST_OBJECT_M:
                objects.append(Primitive(shape, centre, (half_x, half_y, half_z), material, rotation))
                taken.append((x, y, radius))
                break
    return objects


def _furniture(generator: np.random.Generator, room: Room, table: _Table, camera: Camera) -> list[Primitive]:
    """Up to three boxes or drums on the floor beyond the table, so that none stands between table and camera."""
    ahead = math.atan2(camera.rotation[1, 2], camera.rotation[0, 2])
    pieces: list[Primitive] = []
    for _ in range(int(generator.integers(0, 4))):
        shape = (Shape.BOX, Shape.CYLINDER)[generator.integers(2)]
        half_x, half_y, half_z = generator.uniform((0.1, 0.1, 0.15), (0.3, 0.3, 0.5)).tolist()
        if shape is Shape.CYLINDER:
            half_y = half_x
        radius = math.hypot(half_x, half_y)
        distance = math.hypot(table.half_x_m, table.half_y_m) + radius + generator.uniform(0.0, 0.5)
        azimuth = ahead + generator.uniform(-0.8, 0.8)
        x, y = distance * math.cos(azimuth), distance * math.sin(azimuth)
        rotation = rotation_about(_UP, generator.uniform(0.0, 2.0 * math.pi))
        material = _material(generator, _OBJECT_TEXTURES, tile_m=(0.3, 0.8), vivid=0.2)
        if abs(x) + radius < room.high_m[0] and abs(y) + radius < room.high_m[1]:
            pieces.append(Primitive(shape, (x, y, half_z), (half_x, half_y, half_z), material, rotation))
    return pieces


def _room(generator: np.random.Generator) -> Room:
    half_x, half_y, height = generator.uniform((1.2, 1.2, 2.2), (1.4, 1.4, 2.6)).tolist()
    return Room(
        (-half_x, -half_y, 0.0),
        (half_x, half_y, height),
        floor=_material(generator, _FLOOR_TEXTURES, tile_m=(0.5, 1.2), vivid=0.15),
        walls=_material(generator, _WALL_TEXTURES, tile_m=(0.5, 1.5), vivid=0.15),
        ceiling=_material(generator, ("plain",), tile_m=(0.5, 1.0), vivid=0.0),
    )


def _camera(generator: np.random.Generator, target: Vector) -> Camera:
    azimuth, elevation = generator.uniform(0.0, 2.0 * math.pi), math.radians(generator.uniform(25.0, 65.0))
    distance, roll = generator.uniform(0.55, 1.05), math.radians(generator.uniform(-5.0, 5.0))
    aside = distance * math.cos(elevation)
    position = (
        target[0] + aside * math.cos(azimuth),
        target[1] + aside * math.sin(azimuth),
        target[2] + distance * math.sin(elevation),
    )
    return Camera.looking_at(position, target, fovy_rad=FOVY_RAD, roll_rad=roll)


def _light(generator: np.random.Generator, table: _Table) -> Light:
    above, aside, azimuth = generator.uniform((0.6, 0.3, 0.0), (1.2, 0.9, 2.0 * math.pi)).tolist()
    # Strong enough for the table, wherever the lamp hangs.
    strength = generator.uniform(0.7, 1.3) * (above**2 + aside**2)
    warmth = generator.uniform(0.65, 1.0)
    return Light(
        (aside * math.cos(azimuth), aside * math.sin(azimuth), table.top_m + above),
        colour=(strength, strength * (0.5 + 0.5 * warmth), strength * warmth),
        ambient=generator.uniform(0.2, 0.5),
    )


def _material(
    generator: np.random.Generator, textures: tuple[str, ...], *, tile_m: tuple[float, float], vivid: float
) -> Material:
    """A texture between a colour and a lighter or darker relative of it.

    Args:
        generator: source of every choice.
        textures: names to choose from.
        tile_m: range of the tile size.
        vivid: share of saturated colours; the others are greys and pastels, wood mostly brown.
    """
    texture = textures[generator.integers(len(textures))]
    hue, value, saturation, step = generator.random(4).tolist()
    value = 0.35 + 0.6 * value
    if texture in _WOODEN and generator.random() < 0.8:
        hue, saturation = 0.05 + 0.06 * hue, 0.3 + 0.35 * saturation
    elif generator.random() < vivid:
        saturation = 0.45 + 0.45 * saturation
    else:
        saturation = 0.25 * saturation
    step = 0.15 + 0.2 * step
    other_value = value - step if value > 0.6 else value + step
    other_hue = (hue + generator.normal(0.0, 0.03)) % 1.0
    return Material(
        colorsys.hsv_to_rgb(hue, saturation, value),
        colorsys.hsv_to_rgb(other_hue, saturation * generator.uniform(0.6, 1.1), other_value),
        texture=texture,
        variant=int(generator.integers(TEXTURE_VARIANTS)),
        tile_m=generator.uniform(*tile_m),
        gloss=generator.uniform(0.0, 0.5),
    )
