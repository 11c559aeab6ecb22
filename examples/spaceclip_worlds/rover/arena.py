"""Closed arenas with coloured goals and dull obstacles, and how far a point of the floor is from each of them.

Every arena can be driven: obstacles keep `PASSAGE_M`, which is wider than the rover, from each other, from goals and
from the side walls. Only the one on the straight way to the goal that is named may stand closer to one side wall.
"""

from __future__ import annotations

import colorsys
import math
from dataclasses import dataclass

import numpy as np

from spaceclip_worlds.render.raycaster import render
from spaceclip_worlds.render.scene import Camera, Light, Material, Primitive, Room, Scene, Shape, rotation_about
from spaceclip_worlds.render.textures import TEXTURE_VARIANTS
from spaceclip_worlds.rover.instruction import COLOURS, SHAPES, instruction_for
from spaceclip_worlds.rover.pose import Pose

HALF_LENGTH_M, HALF_WIDTH_M, HEIGHT_M = 3.0, 2.1, 2.4
PASSAGE_M = 0.64
MAX_OBSTACLES = 5
_HUES = {"red": 0.0, "yellow": 0.15, "green": 0.35, "blue": 0.61}
_SEEN_HW, _SEEN_PIXELS = (56, 56), 10
_TRIES = 12
_UP = (0.0, 0.0, 1.0)
_DULL_TEXTURES = ("plain", "cloudy", "wood", "planks", "stripes", "checker", "tiles", "speckle", "marble", "dots")


@dataclass(frozen=True, eq=False)
class Goal:
    """A coloured thing to drive to.

    Attributes:
        colour, shape: the words that name it.
        solid: where and what it is.
    """

    colour: str
    shape: str
    solid: Primitive

    @property
    def instruction(self) -> str:
        """The order to drive there."""
        return instruction_for(self.colour, self.shape)


@dataclass(frozen=True, eq=False)
class Arena:
    """A room with goals and obstacles; the frame is the scene's: x along the room, z up, the floor at 0.

    Attributes:
        room, light: as they are drawn.
        goals: in distinct colours; the first is the one that is named.
        obstacles: the first stands on the straight way to the named goal.
        start: where the rover starts.
    """

    room: Room
    light: Light
    goals: tuple[Goal, ...]
    obstacles: tuple[Primitive, ...]
    start: Pose

    @property
    def solids(self) -> tuple[Primitive, ...]:
        """Goals, then obstacles."""
        return (*(goal.solid for goal in self.goals), *self.obstacles)

    def scene(self, camera: Camera) -> Scene:
        """All that a picture from `camera` needs; primitive i is `solids[i]`."""
        return Scene(self.room, camera, self.light, self.solids)

    def clearance_m(self, x_m: float, y_m: float) -> float:
        """Metres from a point of the floor to the nearest wall or solid; negative beyond a wall or within a solid."""
        walls = min(
            min(x_m - self.room.low_m[0], self.room.high_m[0] - x_m),
            min(y_m - self.room.low_m[1], self.room.high_m[1] - y_m),
        )
        return min(walls, *(footprint_distance_m(solid, x_m, y_m) for solid in self.solids))


def footprint_distance_m(solid: Primitive, x_m: float, y_m: float) -> float:
    """Metres from a point of the floor to what an upright solid covers seen from above; negative within it.

    An ellipsoid or cylinder must be round about its upright axis.
    """
    offset = np.array([x_m - solid.centre_m[0], y_m - solid.centre_m[1]])
    if solid.shape is not Shape.BOX:
        return float(np.hypot(*offset)) - solid.half_extents_m[0]
    beyond = np.abs(offset @ solid.rotation[:2, :2]) - solid.half_extents_m[:2]
    return float(np.hypot(*np.maximum(beyond, 0.0))) + min(float(beyond.max()), 0.0)


def random_arena(generator: np.random.Generator) -> Arena:
    """Draw arenas until the named goal is in sight from the start."""
    while True:
        arena = _arena(generator)
        rendering = render(arena.scene(arena.start.camera()), _SEEN_HW, shadows=False)
        if (rendering.primitive == 0).sum() >= _SEEN_PIXELS:
            return arena


def _arena(generator: np.random.Generator) -> Arena:
    start = Pose(-2.4 + generator.uniform(-0.1, 0.1), generator.uniform(-0.6, 0.6), generator.uniform(-0.25, 0.25))
    goals = _goals(generator)
    room = Room(
        (-HALF_LENGTH_M, -HALF_WIDTH_M, 0.0),
        (HALF_LENGTH_M, HALF_WIDTH_M, HEIGHT_M),
        floor=_dull(generator, tile_m=(0.4, 1.2)),
        walls=_dull(generator, tile_m=(0.5, 1.5)),
        ceiling=_dull(generator, tile_m=(0.5, 1.5), textures=("plain",)),
    )
    light = Light(
        (generator.uniform(-1.5, 1.5), generator.uniform(-1.2, 1.2), 2.2),
        colour=(generator.uniform(1.6, 2.6),) * 3,
        ambient=generator.uniform(0.4, 0.6),
    )
    return Arena(room, light, goals, _obstacles(generator, goals, start), start)


def _goals(generator: np.random.Generator) -> tuple[Goal, ...]:
    """Two or three goals of different colours before the far wall, in random order."""
    count = int(generator.integers(2, 4))
    lanes = generator.permutation([-1.35, 0.0, 1.35])[:count] + generator.uniform(-0.12, 0.12, count)
    colours = generator.permutation(COLOURS)[:count].tolist()
    goals = []
    for colour, y in zip(colours, lanes.tolist(), strict=True):
        name = str(generator.choice(SHAPES))
        radius, half_height, x = generator.uniform((0.2, 0.33, 1.8), (0.28, 0.42, 2.3)).tolist()
        shape, half = {
            "ball": (Shape.ELLIPSOID, (1.1 * radius, 1.1 * radius, 1.1 * radius)),
            "box": (Shape.BOX, (radius, 0.8 * radius, half_height)),
            "drum": (Shape.CYLINDER, (radius, radius, half_height)),
        }[name]
        turned = rotation_about(_UP, generator.uniform(0.0, math.pi))
        goals.append(Goal(colour, name, Primitive(shape, (x, y, half[2]), half, _vivid(generator, colour), turned)))
    return tuple(goals)


def _obstacles(generator: np.random.Generator, goals: tuple[Goal, ...], start: Pose) -> tuple[Primitive, ...]:
    """One on the way to the first goal, others where there is room to pass between them."""
    obstacles: list[Primitive] = []
    taken = [(start.x_m, start.y_m, 0.3)]
    taken += [(*goal.solid.centre_m[:2], _radius_m(goal.solid)) for goal in goals]
    way = np.subtract(goals[0].solid.centre_m[:2], (start.x_m, start.y_m))
    aside = np.array([-way[1], way[0]]) / np.hypot(*way)
    for i in range(_TRIES):
        if i == 0:
            place = (start.x_m, start.y_m) + generator.uniform(0.38, 0.58) * way + generator.uniform(-0.1, 0.1) * aside
        else:
            place = generator.uniform((-1.5, -1.4), (1.3, 1.4))
        x, y = float(place[0]), float(place[1])
        obstacle = _obstacle(generator, x, y, max_height_m=0.5 if i == 0 else 0.9)
        radius = _radius_m(obstacle)
        fits = all(math.hypot(x - ox, y - oy) >= radius + other + PASSAGE_M for ox, oy, other in taken)
        if i == 0 or (fits and abs(y) + radius + PASSAGE_M <= HALF_WIDTH_M):
            obstacles.append(obstacle)
            taken.append((x, y, radius))
        if len(obstacles) == MAX_OBSTACLES:
            break
    return tuple(obstacles)


def _obstacle(generator: np.random.Generator, x_m: float, y_m: float, *, max_height_m: float) -> Primitive:
    half_x, half_y, height = generator.uniform((0.14, 0.14, 0.28), (0.26, 0.26, max_height_m)).tolist()
    shape = (Shape.BOX, Shape.CYLINDER)[generator.integers(2)]
    half = (half_x, half_y if shape is Shape.BOX else half_x, 0.5 * height)
    turned = rotation_about(_UP, generator.uniform(0.0, math.pi))
    return Primitive(
        shape, (x_m, y_m, half[2]), half, _dull(generator, tile_m=(0.2, 0.7), saturation=(0.15, 0.4)), turned
    )


def _radius_m(solid: Primitive) -> float:
    """Of the smallest circle about its centre that an upright solid stays in."""
    half_x, half_y, _ = solid.half_extents_m
    return math.hypot(half_x, half_y) if solid.shape is Shape.BOX else half_x


def _vivid(generator: np.random.Generator, colour: str) -> Material:
    hue = (_HUES[colour] + generator.uniform(-0.015, 0.015)) % 1.0
    rgb = colorsys.hsv_to_rgb(hue, generator.uniform(0.85, 1.0), generator.uniform(0.75, 0.95))
    return Material(rgb, rgb, gloss=generator.uniform(0.0, 0.3))


def _dull(
    generator: np.random.Generator,
    *,
    tile_m: tuple[float, float],
    saturation: tuple[float, float] = (0.0, 0.15),
    textures: tuple[str, ...] = _DULL_TEXTURES,
) -> Material:
    """A texture between two tones of a weak colour, so that nothing else looks like a goal."""
    hue, strength, value, step = generator.uniform(
        (0.0, saturation[0], 0.35, 0.12), (1.0, saturation[1], 0.9, 0.3)
    ).tolist()  # fmt: skip
    other = value - step if value > 0.6 else value + step
    return Material(
        colorsys.hsv_to_rgb(hue, strength, value),
        colorsys.hsv_to_rgb(hue, strength, other),
        texture=str(generator.choice(textures)),
        variant=int(generator.integers(TEXTURE_VARIANTS)),
        tile_m=generator.uniform(*tile_m),
        gloss=generator.uniform(0.0, 0.3),
    )
