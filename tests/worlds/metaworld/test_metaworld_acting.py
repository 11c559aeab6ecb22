"""Tasks done from depth: true depth does them, a table with nothing on it does not."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from spaceclip_plugin import DepthMap, Intrinsics
from spaceclip_plugin.steady import Steadiness
from spaceclip_worlds.metaworld.acting import DEPTH_TASKS, attempt, looks_at, table_m
from spaceclip_worlds.metaworld.belief import GOAL, OBJECT, SLOTS
from spaceclip_worlds.metaworld.frame import Frame
from spaceclip_worlds.metaworld.live import LIVE_TASKS, LiveTask
from spaceclip_worlds.metaworld.told import FUSED, NONE, RAYS, SOURCES, TRUE, Depths, scaled_by_table, told

SEED = 900_300


def down(height_m: float, depth_m: np.ndarray) -> Frame:
    """From a camera that looks straight down."""
    pose = np.diag([1.0, -1.0, -1.0, 1.0])
    pose[2, 3] = height_m
    hw = (depth_m.shape[0], depth_m.shape[1])
    return Frame(np.zeros((*hw, 3), np.uint8), depth_m, Intrinsics(50.0, 50.0, 30.0, 20.0, hw), "corner2", pose)


def exact(depth_m: np.ndarray) -> DepthMap:
    """A steady map of what is true."""
    values = torch.from_numpy(np.where(np.isfinite(depth_m), depth_m, 9.0).astype(np.float32))[None]
    steady = Steadiness(values, 1, None, 0.0, 0.0, 0.1, None)
    hw = (depth_m.shape[0], depth_m.shape[1])
    return DepthMap(values, values > 0, camera=None, frame=0, image_hw=hw, trained=True, steady=(steady,))


class TestWithoutSimulator:
    def test_there_are_eight_tasks_and_two_of_them_are_unseen(self) -> None:
        assert len(DEPTH_TASKS) == 8
        assert set(DEPTH_TASKS) <= set(LIVE_TASKS)
        assert all(set(task.parts) <= set(SLOTS) and task.parts for task in DEPTH_TASKS.values())

    def test_a_table_from_above_is_as_far_as_the_camera_is_high(self) -> None:
        np.testing.assert_allclose(table_m(down(1.3, np.ones((40, 60), np.float32))), 1.3)

    def test_depth_is_scaled_to_the_table(self) -> None:
        frame = down(1.2, np.full((40, 60), 1.2, np.float32))
        np.testing.assert_allclose(scaled_by_table(np.full((40, 60), 1.0, np.float32), frame), 1.2, rtol=1e-5)

    def test_depth_stays_where_the_table_cannot_be_told(self) -> None:
        noise = np.exp(np.random.default_rng(0).uniform(-2.0, 2.0, (40, 60))).astype(np.float32)
        np.testing.assert_array_equal(scaled_by_table(noise, down(1.2, noise)), noise)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["reach-v3", "drawer-open-v3", "assembly-v3"])
def test_true_depth_does_what_the_state_does_and_a_bare_table_does_not(draw: Callable[..., object], name: str) -> None:
    task = DEPTH_TASKS[name]
    with LiveTask(name, SEED, higher=task.higher) as live:
        truth = {slot: live.observation[SLOTS[slot]].copy() for slot in task.parts}
        looks = looks_at(live, task, count=2)
        np.testing.assert_allclose(looks[0].frame.camera_to_world, live.pose(), atol=1e-9)
        assert np.linalg.norm((looks[1].frame.camera_to_world - live.pose())[:3, 3]) > 0.02
        depths = [exact(look.frame.depth_m) for look in looks]
        places = told(task, looks, Depths(depths, depths))
        assert set(places) == set(SOURCES)
        for slot, place_m in truth.items():
            assert np.linalg.norm(places[TRUE][slot] - place_m) < 0.015
            assert np.linalg.norm(places[FUSED][slot] - place_m) < 0.02
            assert np.linalg.norm(places[RAYS][slot] - place_m) < 0.02  # directions are exact here
        assert attempt(live, SEED, task, None)
        assert attempt(live, SEED, task, places[TRUE])
        assert not attempt(live, SEED, task, places[NONE])


@pytest.mark.slow
def test_looks_are_half_a_pixel_off_where_that_is_asked_for(draw: Callable[..., object]) -> None:
    task = DEPTH_TASKS["reach-v3"]
    with LiveTask("reach-v3", SEED) as live:
        rays = []
        for seed in (None, 1, 1, 2):
            live.start(SEED)
            [look] = looks_at(live, task, count=1, seed=seed)
            rays.append(look.sights[GOAL].ray * look.frame.intrinsics.fx_px)
    exact_px, one, again, other = rays
    np.testing.assert_array_equal(one, again)
    assert 0.05 < np.linalg.norm(one - exact_px) < 2.0
    assert 0.05 < np.linalg.norm(other - one) < 3.0


@pytest.mark.slow
def test_what_stands_higher_does_so_by_no_more_than_was_said(draw: Callable[..., object]) -> None:
    heights = {0.0: [], 0.1: []}
    for more_m, found in heights.items():
        with LiveTask("drawer-open-v3", image_hw=(8, 8), higher=(2, more_m)) as live:
            found.extend(float(live.start(seed)[SLOTS[OBJECT]][2]) for seed in range(6))
    assert np.ptp(heights[0.0]) < 0.001
    assert 0.02 < np.ptp(heights[0.1]) <= 0.1
    assert min(heights[0.1]) >= min(heights[0.0]) - 0.001
    assert GOAL not in DEPTH_TASKS["drawer-open-v3"].parts
