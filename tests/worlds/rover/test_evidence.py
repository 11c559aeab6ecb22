from __future__ import annotations

import numpy as np
import pytest
import torch

from spaceclip_plugin.depth.depth_map import DepthMap
from spaceclip_worlds.render.raycaster import render
from spaceclip_worlds.render.scene import Light, Material, Primitive, Room, Scene, Shape
from spaceclip_worlds.rover.evidence import FloorEvidence, FloorPoints
from spaceclip_worlds.rover.pose import Pose

GREY = Material((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
ROOM = Room((-9.0, -9.0, 0.0), (9.0, 9.0, 3.0), GREY, GREY, GREY)
START = Pose(0.0, 0.0, 0.0)
FACE_M = 0.8
BOX = Primitive(Shape.BOX, (FACE_M + 0.15, 0.0, 0.2), (0.15, 0.15, 0.2), GREY)


def evidence(*, memory: int = 100) -> FloorEvidence:
    return FloorEvidence(reach_m=1.8, cell_m=0.05, area_m2=0.008, memory=memory)


def look(
    floor: FloorEvidence, *solids: Primitive, pose: Pose = START, uncertainty: float | None = None, times: int = 1
) -> None:
    """What a rover there sees of them, told with that standard deviation over depth."""
    camera = pose.camera()
    rendering = render(Scene(ROOM, camera, Light((0.0, 0.0, 2.9)), solids), (112, 112), shadows=False)
    depth_m = torch.from_numpy(rendering.depth_m)[None]
    told = None if uncertainty is None else uncertainty * depth_m
    depth = DepthMap(depth_m, depth_m > 0, None, 0, (112, 112), True, uncertainty_m=told)
    for _ in range(times):
        floor.add(FloorPoints.of(depth, rendering.intrinsics, camera, (0.1, 0.6)), camera, pose)


def test_an_obstacle_is_where_its_face_is() -> None:
    floor = evidence()
    look(floor, BOX)
    cells_m = floor.obstacles_m()
    near = cells_m[cells_m[:, 0] < FACE_M + 0.1]
    assert near[:, 0] == pytest.approx(FACE_M, abs=0.05)
    assert np.abs(near[:, 1]).max() == pytest.approx(0.15, abs=0.05)
    assert np.all(cells_m[:, 0] > FACE_M - 0.05)


def test_an_empty_floor_has_no_obstacles() -> None:
    floor = evidence()
    look(floor)
    assert len(floor.obstacles_m()) == 0


def test_what_was_never_there_goes_once_the_floor_is_seen_to_be_free() -> None:
    floor = evidence()
    look(floor, BOX, times=2)
    look(floor, times=3)
    assert len(floor.obstacles_m()) > 0  # so much evidence one picture or three do not outweigh
    look(floor, times=2)
    assert len(floor.obstacles_m()) == 0


def test_free_floor_does_not_outweigh_the_next_picture_of_an_obstacle() -> None:
    floor = evidence()
    look(floor, times=20)
    look(floor, BOX)
    assert len(floor.obstacles_m()) > 0


def test_uncertain_depth_frees_no_floor() -> None:
    floor = evidence()
    look(floor, BOX)
    look(floor, uncertainty=2.0, times=20)
    assert len(floor.obstacles_m()) > 0
    look(floor, uncertainty=0.05, times=2)
    assert len(floor.obstacles_m()) == 0


def test_what_an_obstacle_hides_stays_as_it_was() -> None:
    behind = Primitive(Shape.BOX, (1.5, 0.0, 0.1), (0.1, 0.1, 0.1), GREY)
    floor = evidence()
    look(floor, behind)
    seen_m = floor.obstacles_m()
    look(floor, BOX, times=20)
    there = floor.obstacles_m()
    assert len(seen_m) > 0
    assert all((np.abs(there - cell).max(axis=1) < 1e-6).any() for cell in seen_m)


def test_what_left_the_picture_stays_in_its_place_and_fades() -> None:
    floor = evidence(memory=20)
    look(floor, BOX)
    turned = Pose(0.2, 0.3, 3.1)
    look(floor, pose=turned, times=18)
    left_m = floor.obstacles_m()
    assert np.abs(left_m[:, 0].min() - FACE_M) < 0.05
    look(floor, pose=turned, times=2)
    assert len(floor.obstacles_m()) == 0


def test_what_the_window_leaves_behind_is_forgotten() -> None:
    floor = evidence()
    look(floor, BOX, times=4)
    look(floor, pose=Pose(-1.3, 0.0, 3.1))
    assert len(floor.obstacles_m()) == 0
    look(floor, pose=Pose(5.0, -7.0, 1.0))
    look(floor, BOX)
    assert len(floor.obstacles_m()) > 0


def test_a_surface_that_is_hardly_seen_says_little() -> None:
    pole = Primitive(Shape.BOX, (FACE_M, 0.0, 0.055), (0.02, 0.02, 0.055), GREY)  # one centimetre is tall enough
    floor = evidence(memory=10)
    look(floor, pole)
    look(floor)
    assert len(floor.obstacles_m()) == 0
