"""Things, marks and cameras that are elsewhere: in pictures only, and with depth that is true of them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing

import numpy as np
import numpy.typing as npt
import pytest

from spaceclip_worlds.metaworld.cameras import CAMERAS
from spaceclip_worlds.metaworld.easel import Easel
from spaceclip_worlds.metaworld.episode import MOVED, STANDARD, Episode, Picture
from spaceclip_worlds.metaworld.frame import Frame
from spaceclip_worlds.metaworld.placement import Mark, Placement, looked_from
from spaceclip_worlds.metaworld.states import TaskStates

Draw = Callable[..., list[Frame]]
HW = (96, 128)
_UP_M = np.array([0.0, 0.0, 0.1])


@pytest.fixture
def states(draw: Draw) -> TaskStates:
    """A drawer at the start of its task."""
    return TaskStates("drawer-open-v3", Episode(3, "train", "drawer-open-v3", 0).generator())


def pixel(frame: Frame, place_m: npt.NDArray[np.float64]) -> tuple[int, int, float]:
    """Row, column and depth of a place."""
    at = (np.linalg.inv(frame.camera_to_world) @ [*place_m, 1.0])[:3]
    column, row = (frame.intrinsics.matrix().numpy() @ (at / at[2]))[:2].astype(int)
    return row, column, float(at[2])


def test_placements_differ_and_keep_to_their_bounds() -> None:
    placements = [Placement.drawn(np.random.default_rng(seed)) for seed in range(300)]
    offsets = np.array([each.offset_m for each in placements])
    still = (offsets == 0.0).all(axis=1)
    assert 0.2 < still.mean() < 0.4
    assert np.abs(offsets[:, :2]).max() <= 0.08
    assert 0.0 <= offsets[:, 2].min() < 0.01 < 0.11 < offsets[:, 2].max() <= 0.12
    assert {len(each.marks) for each in placements} == set(range(9))
    assert {mark.radius_m for each in placements for mark in each.marks} == {0.01, 0.02}


def test_the_same_generator_gives_the_same_placement() -> None:
    one, other = (Placement.drawn(np.random.default_rng(7)) for _ in range(2))
    np.testing.assert_array_equal(one.offset_m, other.offset_m)
    for mark, again in zip(one.marks, other.marks, strict=True):
        np.testing.assert_array_equal([*mark.place_m, *mark.colour], [*again.place_m, *again.colour])


def down(height_m: float) -> npt.NDArray[np.float64]:
    """A camera that looks straight down at the table."""
    pose = np.diag([1.0, -1.0, -1.0, 1.0])
    pose[2, 3] = height_m
    return pose


def test_cameras_come_nearer_in_half_of_the_pictures() -> None:
    generator, play_m = np.random.default_rng(0), CAMERAS["topview"].play_m
    come_m = 1.5 - np.array([looked_from("topview", down(1.5), generator)[2, 3] for _ in range(400)])
    assert 0.15 < (come_m > 4 * play_m).mean() < 0.3  # what mounting alone never does
    assert come_m.max() < 0.4 + 5 * play_m


def test_a_camera_on_a_wrist_stays_above_the_table_and_one_that_looks_up_where_it_is() -> None:
    generator = np.random.default_rng(0)
    heights_m = [looked_from("gripperPOV", down(0.1), generator)[2, 3] for _ in range(300)]
    assert 0.03 < min(heights_m) < 0.07
    up = [looked_from("gripperPOV", np.eye(4), generator)[2, 3] for _ in range(300)]
    assert np.abs(up).max() < 5 * CAMERAS["gripperPOV"].play_m


@pytest.mark.slow
def test_things_are_elsewhere_while_drawn_and_the_state_goes_on_as_it_was(states: TaskStates) -> None:
    model, data = states.environment.model, states.environment.data
    before = data.geom_xpos.copy(), data.site_xpos.copy(), data.qpos.copy()
    [drawer, table, robot] = (model.body(name).id for name in ("drawer_link", "tablelink", "right_l5"))
    with Placement(_UP_M, ()).shown_in(model, data):
        moved = data.geom_xpos - before[0]
        of_drawer = moved[model.geom_bodyid == drawer]
        assert len(of_drawer) > 0
        np.testing.assert_allclose(of_drawer, np.broadcast_to(_UP_M, of_drawer.shape), atol=1e-12)
        for body in (table, robot):
            assert not moved[model.geom_bodyid == body].any()
    for now, then in zip((data.geom_xpos, data.site_xpos, data.qpos), before, strict=True):
        np.testing.assert_array_equal(now, then)


@pytest.mark.slow
def test_the_state_is_put_right_again_after_an_error(states: TaskStates) -> None:
    model, data = states.environment.model, states.environment.data
    before = data.geom_xpos.copy()
    with pytest.raises(KeyError), Placement(_UP_M, ()).shown_in(model, data):
        raise KeyError
    np.testing.assert_array_equal(data.geom_xpos, before)


@pytest.mark.slow
def test_a_mark_is_in_the_picture_and_has_the_depth_of_its_front(states: TaskStates) -> None:
    place_m = np.array([0.1, 0.6, 0.25])
    mark = Mark(place_m, 0.02, np.array([0.0, 0.8, 0.0]))
    with closing(Easel(states.environment, Picture(HW, ("corner2",), STANDARD))) as easel:
        frame = easel.draw(np.random.default_rng(0))
        row, column, centre_m = pixel(frame, place_m)
        image, depth_m = easel.image([mark]), easel.depth_m([mark])
    assert depth_m[row, column] == pytest.approx(centre_m - 0.02, abs=2e-3)
    assert image[row, column, 1] > image[row, column, [0, 2]].max() + 40  # green
    elsewhere = np.ones(HW, dtype=bool)
    elsewhere[row - 8 : row + 9, column - 8 : column + 9] = False
    np.testing.assert_array_equal(depth_m[elsewhere], frame.depth_m[elsewhere])


@pytest.mark.slow
def test_moved_pictures_are_the_same_whenever_drawn_and_others_than_standard_ones(draw: Draw) -> None:
    one, again = (draw("drawer-open-v3", look=MOVED, image_hw=HW) for _ in range(2))
    for frame, other in zip(one, again, strict=True):
        np.testing.assert_array_equal(frame.image, other.image)
        np.testing.assert_array_equal(frame.depth_m, other.depth_m)
    poses = np.array([frame.camera_to_world[:3, 3] for frame in one])
    assert np.linalg.norm(poses - poses.mean(axis=0), axis=1).min() > 0.001  # mounted anew for every picture
