from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from spaceclip_worlds.arm.observation import Observation, block_sighted, red_pixels
from spaceclip_worlds.arm.two_cameras import BLOCK_HALF_M, SIDES, TwoCameraTable
from spaceclip_worlds.sighting import Sighting, fused


def table_and_looks() -> tuple[TwoCameraTable, list[Observation]]:
    """A table whose block both cameras see whole."""
    for seed in range(100):
        table = TwoCameraTable(seed)
        seen = [table.observe(side) for side in SIDES]
        if all(red_pixels(each.image).sum() > 30 for each in seen):
            return table, seen
    raise AssertionError("no such table")


def sighting(seen: Observation, *, factor: float = 1.0, uncertainty: float | None = None) -> Sighting:
    found = block_sighted(
        seen, seen.depth_map(seen.depth_m * np.float32(factor), uncertainty=uncertainty), half_m=BLOCK_HALF_M
    )
    assert found is not None
    return found


def test_one_look_is_as_uncertain_as_its_depth_and_only_along_its_ray() -> None:
    table, (seen, _) = table_and_looks()
    found = sighting(seen, uncertainty=0.2)
    assert math.dist(found.place, table.block_m) < 0.01
    ray = found.place_m - np.array(seen.camera.position_m)
    distance_m = float(np.linalg.norm(ray))
    widest_m = found.widest_m()
    assert np.linalg.norm(widest_m) == pytest.approx(0.2 * distance_m)
    assert abs(widest_m @ ray) == pytest.approx(0.2 * distance_m**2)
    across = np.linalg.inv(found.information)
    assert np.trace(across) == pytest.approx((0.2 * distance_m) ** 2, rel=0.02)


def test_two_looks_that_cross_make_up_for_depth_that_is_far_off() -> None:
    table, looks = table_and_looks()
    alone = [sighting(seen, factor=1.15, uncertainty=0.2) for seen in looks]
    both = fused(alone)
    assert min(math.dist(each.place, table.block_m) for each in alone) > 0.08
    assert math.dist(both.place, table.block_m) < 0.02
    assert np.linalg.norm(both.widest_m()) < 0.2 * min(np.linalg.norm(each.widest_m()) for each in alone)


def test_the_surer_look_is_believed() -> None:
    _, looks = table_and_looks()
    exact, wrong = sighting(looks[0]), sighting(looks[0], factor=1.3, uncertainty=0.3)
    assert math.dist(fused([exact, wrong]).place, exact.place) < 0.01
    assert fused([exact]).place == pytest.approx(exact.place)


def test_a_block_that_the_edge_cuts_is_less_sure_of_its_direction() -> None:
    _, (seen, _) = table_and_looks()
    rows, _ = np.nonzero(red_pixels(seen.image))
    kept = int(np.median(rows)) + 1
    lens = dataclasses.replace(seen.intrinsics, image_hw=(kept, seen.image.shape[1]))
    half = dataclasses.replace(seen, image=seen.image[:kept], depth_m=seen.depth_m[:kept], intrinsics=lens)
    across = [sighting(each, uncertainty=0.2).information for each in (seen, half)]
    whole_m, half_m = (np.linalg.eigvalsh(each)[-1] ** -0.5 for each in across)
    assert half_m == pytest.approx(whole_m + BLOCK_HALF_M, abs=2e-3)


def test_no_block_is_no_sighting() -> None:
    _, (seen, _) = table_and_looks()
    grey = dataclasses.replace(seen, image=np.full_like(seen.image, 128))
    assert block_sighted(grey, grey.depth_map(), half_m=BLOCK_HALF_M) is None
