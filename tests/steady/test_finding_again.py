"""Where surfaces were before: by matching, by a known motion, and by the one motion that images show."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from stand_ins.room_video import CAMERA, place, room

from spaceclip_plugin.steady.following import Told
from spaceclip_plugin.steady.fusion import FusedDepth
from spaceclip_plugin.steady.grid import (
    Cells,
    all_nearby,
    as_array,
    cell_centres,
    cell_means,
    grid_of,
    median,
    nearby_extremes,
    sampled,
    spread,
    window_mean,
)
from spaceclip_plugin.steady.likeness import Image, Pattern, agreement
from spaceclip_plugin.steady.matching import matched_places
from spaceclip_plugin.steady.motion import Motion, Rays, carried, places_before
from spaceclip_plugin.steady.motion_seen import motion_seen

GRID = (56, 56)
RAYS = Rays.of(CAMERA, GRID)


def grid_of_depth(depth_m: torch.Tensor) -> Cells:
    return as_array(cell_means(depth_m[None], GRID)[0])


def motion(before: torch.Tensor, now: torch.Tensor) -> Motion:
    return Told(before.numpy(), now.numpy()).onward


def true_places(before: torch.Tensor, now: torch.Tensor) -> Cells:
    return places_before(RAYS, np.log(grid_of_depth(room(now).depth_m)), motion(before, now).inverse())


def random(*shape: int) -> Cells:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def everywhere(depth_m: Cells) -> FusedDepth:
    return FusedDepth(np.log(depth_m), np.full(GRID, 0.04, dtype=np.float32), np.ones(GRID, dtype=np.bool_))


@pytest.mark.parametrize(
    ("image_hw", "grid"), [((224, 224), (56, 56)), ((480, 640), (42, 56)), ((640, 480), (56, 42)), ((7, 224), (2, 56))]
)
def test_a_grid_has_the_shape_of_the_image(image_hw: tuple[int, int], grid: tuple[int, int]) -> None:
    assert grid_of(image_hw) == grid


def test_window_means_are_those_of_what_lies_inside() -> None:
    maps = random(2, 9, 7)
    pooled = torch.nn.functional.avg_pool2d(
        torch.from_numpy(maps)[None], 5, stride=1, padding=2, count_include_pad=False
    )[0]
    np.testing.assert_allclose(window_mean(maps, 5), pooled, rtol=1e-5, atol=1e-6)


def test_extremes_are_of_a_cell_and_its_neighbours() -> None:
    values = random(6, 5)
    smallest, largest = nearby_extremes(values)
    pooled = torch.nn.functional.max_pool2d(torch.from_numpy(np.stack([values, -values])), 3, stride=1, padding=1)
    np.testing.assert_array_equal(np.stack([largest, -smallest]), pooled)
    np.testing.assert_array_equal(all_nearby(values > -1), smallest > -1)


@pytest.mark.parametrize("count", [1, 8, 9])
def test_the_median_is_that_of_torch(count: int) -> None:
    values = random(count)
    assert median(values) == float(torch.from_numpy(values).median())


@pytest.mark.parametrize(("of", "size"), [((14, 14), (56, 42)), ((56, 40), (14, 80)), ((1, 2), (3, 1))])
def test_what_is_between_cells_is_that_of_torch(of: tuple[int, int], size: tuple[int, int]) -> None:
    maps = random(2, *of)
    wanted = torch.nn.functional.interpolate(torch.from_numpy(maps)[None], size=size, mode="bilinear")[0]
    np.testing.assert_allclose(spread(maps, size), wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [(6, 5), (1, 4), (3, 1)])
def test_what_is_read_between_cells_is_that_of_torch(size: tuple[int, int]) -> None:
    maps, places = random(3, *size), np.abs(random(2, 40)) * 4 - 1
    at = torch.from_numpy(places.T / np.array(size[::-1], dtype=np.float32) * 2 - 1)[None, None]
    wanted = torch.nn.functional.grid_sample(
        torch.from_numpy(maps)[None], at, padding_mode="border", align_corners=False
    )
    np.testing.assert_allclose(sampled(maps, places)[0], wanted[0, :, 0], rtol=0, atol=1e-5)


def test_maps_are_read_between_cells_and_outside_is_told() -> None:
    centres = cell_centres((4, 6))
    values, inside = sampled(centres, centres)
    np.testing.assert_allclose(values, centres, rtol=0, atol=1e-5)
    assert inside.all()
    _, inside = sampled(centres, np.array([[-0.1, 6.1, 3.0], [1.0, 1.0, 1.0]], dtype=np.float32))
    assert inside.tolist() == [False, False, True]
    nowhere = np.array([[np.nan, 1.0, -np.inf, np.inf], [1.0, np.nan, 1.0, np.inf]], dtype=np.float32)
    assert not sampled(centres, nowhere)[1].any()


@pytest.mark.parametrize("now", [place(0.05), place(0.0, 0.06), place(pan=0.1), place(0.04, pan=-0.25)])
def test_surfaces_are_found_again_to_a_part_of_a_cell(now: torch.Tensor) -> None:
    before = place()
    [old], [new] = (Image.several(room(at).look()) for at in (before, now))
    truth = true_places(before, now)
    inside = sampled(old.grey, truth)[1]
    off = np.linalg.norm(matched_places(new, old) - truth, axis=0)[inside]
    assert np.median(off) < 0.35  # of a cell of four pixels
    assert (off < 1.5).mean() > 0.8


def test_what_is_at_its_place_agrees_and_what_is_not_does_not() -> None:
    before, now = place(), place(0.04, pan=-0.1)
    old, new = as_array(room(before).look().grey), as_array(room(now).look().grey)
    truth = true_places(before, now)
    (there, inside), (elsewhere, _) = (sampled(old, places) for places in (truth, truth + 6.0))
    alike, unlike = (agreement(Pattern.of(new), Pattern.of(grey)) for grey in (there, elsewhere))
    assert np.median(alike[inside]) > 0.9
    assert np.median(unlike[inside]) < 0.3


def test_exposure_changes_no_agreement() -> None:
    grey = as_array(room(place()).look().grey)
    alike = agreement(Pattern.of(grey), Pattern.of(grey + np.float32(0.7)))
    np.testing.assert_allclose(alike, 1.0, rtol=0, atol=1e-3)


def test_depth_is_carried_to_where_it_is_seen_now() -> None:
    before, now = place(), place(0.05, 0.1, pan=0.05)
    earlier, truth = grid_of_depth(room(before).depth_m), grid_of_depth(room(now).depth_m)
    seen = carried(RAYS, everywhere(earlier), motion(before, now))
    off = np.abs(seen.log_depth - np.log(truth))[seen.known]
    assert seen.known.mean() > 0.85
    assert np.median(off) < 0.01
    assert (off < 0.05).mean() > 0.95


def test_the_nearer_of_two_surfaces_hides_the_other() -> None:
    before, now = place(), place(0.6)
    earlier = grid_of_depth(room(before, block_m=0.3).depth_m)
    seen = carried(RAYS, everywhere(earlier), motion(before, now))
    block = grid_of_depth((room(now, block_m=0.3).depth_m == 1.6).float()) > 0.99
    assert block.sum() > 50
    assert np.abs(np.exp(seen.log_depth[block & seen.known]) - 1.6).max() < 0.05


def test_no_depth_is_carried_out_of_what_is_not_known() -> None:
    whole = everywhere(np.ones(GRID, dtype=np.float32))
    seen = carried(RAYS, replace(whole, known=~whole.known), motion(place(), place()))
    assert not seen.known.any()
    assert np.isfinite(seen.log_depth).all()


@pytest.mark.parametrize("now", [place(), place(0.1), place(-0.03, 0.08, pan=0.15)])
def test_the_motion_of_the_camera_is_that_of_most_surfaces(now: torch.Tensor) -> None:
    before = place()
    true = motion(before, now)
    depth_m = grid_of_depth(room(now).depth_m)
    points = true.inverse().points(RAYS.rays, depth_m)
    points[:, :14, :20] += np.array([0.4, -0.2, 0.3], dtype=np.float32)[:, None, None]  # what moves on its own
    found, off = motion_seen(RAYS, points, np.ones(GRID, dtype=np.bool_))
    np.testing.assert_allclose(found.translation_m, true.translation_m, rtol=0, atol=2e-3)
    np.testing.assert_allclose(found.rotation, true.rotation, rtol=0, atol=2e-3)
    assert off[20:].max() < 0.2
    assert off[:14, :20].min() > 1.0


def test_no_point_shows_no_motion() -> None:
    found, off = motion_seen(RAYS, RAYS.rays.copy(), np.zeros(GRID, dtype=np.bool_))
    np.testing.assert_array_equal(found.rotation, np.eye(3))
    assert np.isfinite(off).all()


def test_a_way_and_the_way_back_lead_nowhere() -> None:
    there = motion(place(0.2, 0.1, pan=0.3), place(-0.1, 0.4, pan=-0.2))
    one_m = np.ones(GRID, dtype=np.float32)
    points = there.inverse().points(there.points(RAYS.rays, one_m), one_m)
    np.testing.assert_allclose(points, RAYS.rays, rtol=0, atol=1e-5)
    assert there.angle() == pytest.approx(0.5, abs=1e-5)
    assert math.isclose(float(RAYS.log_lengths[28, 28]), 0.0, abs_tol=1e-3)
