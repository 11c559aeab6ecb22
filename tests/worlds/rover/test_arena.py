from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from spaceclip_worlds.render.scene import Material, Primitive, Shape, rotation_about
from spaceclip_worlds.rover.arena import HALF_WIDTH_M, PASSAGE_M, Arena, footprint_distance_m, random_arena
from spaceclip_worlds.rover.world import BODY_RADIUS_M

GREY = Material((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
SEEDS = range(25)


@pytest.fixture(scope="module")
def arenas() -> list[Arena]:
    return [random_arena(np.random.default_rng(seed)) for seed in SEEDS]


def outline(solid: Primitive, count: int = 4000) -> np.ndarray:
    """(N, 2) points along the border of what a solid covers, worked out another way: corner to corner, or a circle."""
    half_x, half_y, _ = solid.half_extents_m
    if solid.shape is Shape.BOX:
        corners = np.array([[half_x, half_y], [-half_x, half_y], [-half_x, -half_y], [half_x, -half_y]])
        share = np.linspace(0.0, 1.0, count // 4)[:, None]
        sides = [a + share * (b - a) for a, b in itertools.pairwise([*corners, corners[0]])]
        border = np.concatenate(sides)
    else:
        angle = np.linspace(0.0, 2.0 * math.pi, count)
        border = half_x * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return border @ solid.rotation[:2, :2].T + np.array(solid.centre_m[:2])


@pytest.mark.parametrize("shape", list(Shape))
def test_distance_to_a_footprint_against_its_outline(shape: Shape) -> None:
    half = (0.3, 0.15, 0.4) if shape is Shape.BOX else (0.3, 0.3, 0.4)
    solid = Primitive(shape, (0.5, -0.2, 0.4), half, GREY, rotation_about((0.0, 0.0, 1.0), 0.6))
    border = outline(solid)
    for x, y in np.random.default_rng(0).uniform(-1.0, 1.5, (200, 2)):
        distance = footprint_distance_m(solid, x, y)
        nearest = np.hypot(*(border - (x, y)).T).min()
        assert abs(distance) == pytest.approx(nearest, abs=1e-3)
        inside = np.abs(((x, y) - np.array(solid.centre_m[:2])) @ solid.rotation[:2, :2]) / half[:2]
        covered = inside.max() < 1.0 if shape is Shape.BOX else np.hypot(*inside) < 1.0
        assert (distance < 0.0) == covered


def test_clearance_is_the_least_distance_to_a_wall_or_solid(arenas: list[Arena]) -> None:
    generator = np.random.default_rng(1)
    for arena in arenas[:8]:
        borders = np.concatenate([outline(solid) for solid in arena.solids])
        for x, y in generator.uniform((-2.9, -2.0), (2.9, 2.0), (20, 2)):
            walls = min(3.0 - abs(x), 2.1 - abs(y))
            brute = min(walls, np.hypot(*(borders - (x, y)).T).min())
            clearance = arena.clearance_m(x, y)
            assert clearance == pytest.approx(brute, abs=2e-3) or clearance < 0.0


def test_beyond_a_wall_clearance_is_negative(arenas: list[Arena]) -> None:
    assert arenas[0].clearance_m(0.0, 2.4) == pytest.approx(-0.3)
    assert arenas[0].clearance_m(-3.25, 0.0) == pytest.approx(-0.25)


def test_the_first_obstacle_stands_on_the_straight_way(arenas: list[Arena]) -> None:
    for arena in arenas:
        start, goal = arena.start.as_array(), np.array(arena.goals[0].solid.centre_m[:2])
        way = [start + share * (goal - start) for share in np.linspace(0.0, 1.0, 400)]
        nearest = min(footprint_distance_m(arena.obstacles[0], x, y) for x, y in way)
        assert nearest < 0.5 * BODY_RADIUS_M


def test_the_rover_fits_between_any_two_solids_and_past_the_walls(arenas: list[Arena]) -> None:
    assert PASSAGE_M > 2.0 * BODY_RADIUS_M + 0.2
    for arena in arenas:
        for number, one in enumerate(arena.obstacles):
            beside = HALF_WIDTH_M - outline(one)[:, 1].max(), outline(one)[:, 1].min() + HALF_WIDTH_M
            assert (max(beside) if number == 0 else min(beside)) >= PASSAGE_M - 1e-9
            for other in arena.solids:
                if other is not one:
                    gaps = [footprint_distance_m(other, x, y) for x, y in outline(one, 400)]
                    assert min(gaps) >= PASSAGE_M - 1e-6


def test_goals_differ_in_colour_and_look_like_it(arenas: list[Arena]) -> None:
    brightest = {"red": [0], "yellow": [0, 1], "green": [1], "blue": [2]}
    for arena in arenas:
        colours = [goal.colour for goal in arena.goals]
        assert 2 <= len(set(colours)) == len(colours) <= 3
        for goal in arena.goals:
            rgb = np.array(goal.solid.material.colour)
            strong = np.flatnonzero(rgb > 0.6 * rgb.max()).tolist()
            assert strong == brightest[goal.colour]
            shape = {"ball": Shape.ELLIPSOID, "box": Shape.BOX, "drum": Shape.CYLINDER}[goal.shape]
            assert goal.solid.shape is shape


def test_obstacles_and_room_are_dull(arenas: list[Arena]) -> None:
    for arena in arenas:
        room = [arena.room.floor, arena.room.walls]
        for most, materials in ((0.15, room), (0.4, [solid.material for solid in arena.obstacles])):
            for material in materials:
                for rgb in (material.colour, material.second_colour):
                    assert max(rgb) - min(rgb) <= (most + 1e-6) * max(rgb)
