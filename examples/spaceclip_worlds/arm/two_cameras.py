"""A table that two cameras watch, and a screen that may hide the block from one of them; needs no simulator."""

from __future__ import annotations

import colorsys
import math

import numpy as np

from spaceclip_worlds import checks
from spaceclip_worlds.arm.observation import Observation
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

IMAGE_HW = (112, 112)
SIDES = ("left", "right")
FOVY_RAD = math.radians(50.0)
BLOCK_HALF_M = 0.025
_AZIMUTH_RAD = {"left": math.radians(-50.0), "right": math.radians(50.0)}
_TABLE_HALF_M = (0.55, 0.55, 0.02)
_BLOCK_REACH_M = 0.18
_HIDDEN_SHARE = 0.9
_TRIES = 100
_MAX_SEED = 2**63 - 1
_UP = (0.0, 0.0, 1.0)
_RED = Material((0.85, 0.06, 0.05), (0.85, 0.06, 0.05))


class TwoCameraTable:
    """One random table: a red block on a stand of unknown height, a screen, other things, and two cameras.

    Mostly a screen stands between the block and one camera, which cannot see it then.

    Attributes:
        block_m: centre of the block: the truth. The table top has height 0.
        cameras: pose of each of `SIDES`.
    """

    block_m: Vector
    cameras: dict[str, Camera]

    def __init__(self, seed: int = 0) -> None:
        """Set the table of a seed: the same seed gives the same table.

        Raises:
            ConfigError: not an integer from 0 to 2**63 - 1.
        """
        seed = checks.whole("seed of a table", seed, 0, _MAX_SEED)
        generator = np.random.default_rng(np.random.SeedSequence(seed))
        x_m, y_m = generator.uniform(-_BLOCK_REACH_M, _BLOCK_REACH_M, 2).tolist()
        stand_m = float(generator.uniform(0.01, 0.1))
        self.block_m = (x_m, y_m, stand_m + BLOCK_HALF_M)
        self.cameras = {side: _camera(generator, azimuth_rad) for side, azimuth_rad in _AZIMUTH_RAD.items()}
        hidden = str(generator.choice(SIDES)) if generator.random() < _HIDDEN_SHARE else None
        turned = rotation_about(_UP, generator.uniform(0.0, math.pi))
        solids = [
            Primitive(Shape.BOX, (0.0, 0.0, -_TABLE_HALF_M[2]), _TABLE_HALF_M, _material(generator, 0.25)),
            Primitive(Shape.BOX, self.block_m, (BLOCK_HALF_M,) * 3, _RED, turned),
            Primitive(
                Shape.BOX, (x_m, y_m, 0.5 * stand_m), (0.035, 0.035, 0.5 * stand_m), _material(generator), turned
            ),
        ]
        if hidden is not None:
            solids.append(_screen(generator, self.block_m, self.cameras[hidden]))
        solids += _clutter(generator, self.block_m)
        self._solids = tuple(solids)
        self._light = Light(
            tuple(generator.uniform((-0.6, -0.6, 0.9), (0.6, 0.6, 1.5)).tolist()),
            colour=(float(generator.uniform(1.3, 2.2)),) * 3,
            ambient=float(generator.uniform(0.3, 0.5)),
        )
        floor, walls, ceiling = (_material(generator, 0.6) for _ in range(3))
        self._room = Room((-1.6, -1.6, -0.7), (1.6, 1.6, 1.7), floor=floor, walls=walls, ceiling=ceiling)

    def observe(self, side: str) -> Observation:
        """Look through one of `SIDES`.

        Raises:
            ConfigError: there is no such side.
        """
        camera = self.cameras[checks.choice("side", side, SIDES)]
        rendering = render(Scene(self._room, camera, self._light, self._solids), IMAGE_HW)
        return Observation(rendering.image, rendering.depth_m, rendering.intrinsics, camera)


def _camera(generator: np.random.Generator, azimuth_rad: float) -> Camera:
    turn_rad, elevation_rad = np.radians(generator.uniform((-12.0, 25.0), (12.0, 42.0))).tolist()
    distance_m = float(generator.uniform(0.75, 1.0))
    aside_m, around_rad = distance_m * math.cos(elevation_rad), azimuth_rad + turn_rad
    position_m = (
        aside_m * math.cos(around_rad), aside_m * math.sin(around_rad), distance_m * math.sin(elevation_rad)
    )  # fmt: skip
    x_m, y_m = generator.uniform(-0.04, 0.04, 2).tolist()
    return Camera.looking_at(position_m, (x_m, y_m, 0.03), fovy_rad=FOVY_RAD)


def _screen(generator: np.random.Generator, block_m: Vector, camera: Camera) -> Primitive:
    """An upright board close before the block, across the way from a camera."""
    away_rad = math.atan2(camera.position_m[1] - block_m[1], camera.position_m[0] - block_m[0])
    distance_m, half_wide_m = float(generator.uniform(0.08, 0.12)), float(generator.uniform(0.06, 0.075))
    # As high as the line of sight over the block, there, and some more.
    rise = (camera.position_m[2] - block_m[2]) / math.dist(camera.position_m[:2], block_m[:2])
    half_high_m = 0.5 * (block_m[2] + BLOCK_HALF_M + (distance_m + 2.0 * BLOCK_HALF_M) * rise + 0.02)
    centre_m = (
        block_m[0] + distance_m * math.cos(away_rad), block_m[1] + distance_m * math.sin(away_rad), half_high_m
    )  # fmt: skip
    half_m = (0.008, half_wide_m, half_high_m)
    return Primitive(Shape.BOX, centre_m, half_m, _material(generator), rotation_about(_UP, away_rad))


def _clutter(generator: np.random.Generator, block_m: Vector) -> list[Primitive]:
    """Up to six low solids around, apart from each other and the block."""
    solids: list[Primitive] = []
    wanted = int(generator.integers(2, 7))
    for _ in range(_TRIES):
        if len(solids) == wanted:
            break
        shape = (Shape.BOX, Shape.CYLINDER, Shape.ELLIPSOID)[generator.integers(3)]
        half_x, half_y, half_z = generator.uniform(0.015, 0.045, 3).tolist()
        half_y = half_x if shape is Shape.CYLINDER else half_y
        x_m, y_m = generator.uniform(-0.42, 0.42, 2).tolist()
        others = [(block_m, 0.16), *((solid.centre_m, 0.11) for solid in solids)]
        if all(math.dist((x_m, y_m), other[:2]) > apart_m for other, apart_m in others):
            turned = rotation_about(_UP, generator.uniform(0.0, math.pi))
            material = _material(generator)
            solids.append(Primitive(shape, (x_m, y_m, half_z), (half_x, half_y, half_z), material, turned))
    return solids


def _material(generator: np.random.Generator, tile_m: float = 0.12) -> Material:
    """Anything but red."""
    texture = ("plain", "cloudy", "wood", "stripes", "checker", "speckle")[generator.integers(6)]
    hue, saturation, value = generator.uniform((0.1, 0.1, 0.35), (0.85, 0.6, 0.9)).tolist()
    other_value = value + (0.2 if value < 0.6 else -0.2)
    return Material(
        colorsys.hsv_to_rgb(hue, saturation, value),
        colorsys.hsv_to_rgb(hue, saturation, other_value),
        texture=texture,
        variant=int(generator.integers(TEXTURE_VARIANTS)),
        tile_m=tile_m,
    )
