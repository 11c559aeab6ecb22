"""Where surfaces were before: by matching, by a known motion, and by the one motion that images show."""

from __future__ import annotations

import math

import pytest
import torch
from stand_ins.room_video import CAMERA, place, room

from spaceclip_plugin.steady.fusion import FusedDepth
from spaceclip_plugin.steady.grid import cell_centres, cell_means, grid_of, nearby_extremes, sampled, window_mean
from spaceclip_plugin.steady.matching import agreement, matched_places
from spaceclip_plugin.steady.motion import Motion, Rays, carried, places_before
from spaceclip_plugin.steady.motion_seen import motion_seen

GRID = (56, 56)
RAYS = Rays.of(CAMERA, GRID)


def grid_of_depth(depth_m: torch.Tensor) -> torch.Tensor:
    return cell_means(depth_m[None], GRID)[0]


def motion(before: torch.Tensor, now: torch.Tensor) -> Motion:
    return Motion.of((torch.linalg.inv(now) @ before).numpy())


def true_places(before: torch.Tensor, now: torch.Tensor) -> torch.Tensor:
    depth_m = grid_of_depth(room(now).depth_m)
    return places_before(RAYS, depth_m.log(), motion(before, now).inverse())


@pytest.mark.parametrize(
    ("image_hw", "grid"), [((224, 224), (56, 56)), ((480, 640), (42, 56)), ((640, 480), (56, 42)), ((7, 224), (2, 56))]
)
def test_a_grid_has_the_shape_of_the_image(image_hw: tuple[int, int], grid: tuple[int, int]) -> None:
    assert grid_of(image_hw) == grid


def test_window_means_are_those_of_what_lies_inside() -> None:
    maps = torch.randn(2, 9, 7)
    expected = torch.nn.functional.avg_pool2d(maps[None], 5, stride=1, padding=2, count_include_pad=False)[0]
    torch.testing.assert_close(window_mean(maps, 5), expected, rtol=1e-5, atol=1e-6)


def test_extremes_are_of_a_cell_and_its_neighbours() -> None:
    values = torch.randn(6, 5)
    smallest, largest = nearby_extremes(values)
    assert torch.equal(largest, torch.nn.functional.max_pool2d(values[None, None], 3, stride=1, padding=1)[0, 0])
    assert torch.equal(smallest, -torch.nn.functional.max_pool2d(-values[None, None], 3, stride=1, padding=1)[0, 0])


def test_maps_are_read_between_cells_and_outside_is_told() -> None:
    centres = cell_centres((4, 6))
    values, inside = sampled(centres, centres)
    torch.testing.assert_close(values, centres)
    assert inside.all()
    _, inside = sampled(centres, torch.tensor([[-0.1, 6.1, 3.0], [1.0, 1.0, 1.0]]))
    assert inside.tolist() == [False, False, True]


@pytest.mark.parametrize("now", [place(0.05), place(0.0, 0.06), place(pan=0.1), place(0.04, pan=-0.25)])
def test_surfaces_are_found_again_to_a_part_of_a_cell(now: torch.Tensor) -> None:
    before = place()
    old, new = room(before).look(), room(now).look()
    truth = true_places(before, now)
    inside = sampled(old.grey, truth)[1]
    off = (matched_places(new, old) - truth).norm(dim=0)[inside]
    assert off.median() < 0.35  # of a cell of four pixels
    assert (off < 1.5).float().mean() > 0.8


def test_what_is_at_its_place_agrees_and_what_is_not_does_not() -> None:
    before, now = place(), place(0.04, pan=-0.1)
    old, new = room(before).look(), room(now).look()
    truth = true_places(before, now)
    alike, inside = agreement(new.grey, old.grey, truth)
    elsewhere, _ = agreement(new.grey, old.grey, truth + 6.0)
    assert alike[inside].median() > 0.9
    assert elsewhere[inside].median() < 0.3


def test_exposure_changes_no_agreement() -> None:
    look = room(place()).look()
    alike, _ = agreement(look.grey, look.grey + 0.7, cell_centres(GRID))
    torch.testing.assert_close(alike, torch.ones(GRID), rtol=0, atol=1e-3)


def test_depth_is_carried_to_where_it_is_seen_now() -> None:
    before, now = place(), place(0.05, 0.1, pan=0.05)
    earlier, truth = grid_of_depth(room(before).depth_m), grid_of_depth(room(now).depth_m)
    whole = FusedDepth(earlier.log(), torch.full(GRID, 0.04), torch.ones(GRID, dtype=torch.bool))
    seen = carried(RAYS, whole, motion(before, now))
    off = (seen.log_depth - truth.log()).abs()[seen.known]
    assert seen.known.float().mean() > 0.85
    assert off.median() < 0.01
    assert (off < 0.05).float().mean() > 0.95


def test_the_nearer_of_two_surfaces_hides_the_other() -> None:
    before, now = place(), place(0.6)
    earlier = grid_of_depth(room(before, block_m=0.3).depth_m)
    whole = FusedDepth(earlier.log(), torch.full(GRID, 0.04), torch.ones(GRID, dtype=torch.bool))
    seen = carried(RAYS, whole, motion(before, now))
    truth = room(now, block_m=0.3).depth_m
    block = cell_means((truth == 1.6).float()[None], GRID)[0] > 0.99
    assert block.sum() > 50
    assert (seen.log_depth[block & seen.known].exp() - 1.6).abs().max() < 0.05


def test_no_depth_is_carried_out_of_what_is_not_known() -> None:
    whole = FusedDepth(torch.zeros(GRID), torch.ones(GRID), torch.zeros(GRID, dtype=torch.bool))
    seen = carried(RAYS, whole, motion(place(), place()))
    assert not seen.known.any()
    assert seen.log_depth.isfinite().all()


@pytest.mark.parametrize("now", [place(), place(0.1), place(-0.03, 0.08, pan=0.15)])
def test_the_motion_of_the_camera_is_that_of_most_surfaces(now: torch.Tensor) -> None:
    before = place()
    true = motion(before, now)
    depth_m = grid_of_depth(room(now).depth_m)
    points = true.inverse().points(RAYS.rays, depth_m)
    points[:, :14, :20] += torch.tensor([0.4, -0.2, 0.3])[:, None, None]  # something that moves on its own
    known = torch.ones(GRID, dtype=torch.bool)
    found, off = motion_seen(RAYS, points, known)
    torch.testing.assert_close(found.translation_m, true.translation_m, rtol=0, atol=2e-3)
    torch.testing.assert_close(found.rotation, true.rotation, rtol=0, atol=2e-3)
    assert off[20:].max() < 0.2
    assert off[:14, :20].min() > 1.0


def test_no_point_shows_no_motion() -> None:
    found, off = motion_seen(RAYS, RAYS.rays.clone(), torch.zeros(GRID, dtype=torch.bool))
    assert torch.equal(found.rotation, torch.eye(3))
    assert off.isfinite().all()


def test_a_way_and_the_way_back_lead_nowhere() -> None:
    there = motion(place(0.2, 0.1, pan=0.3), place(-0.1, 0.4, pan=-0.2))
    points = there.inverse().points(there.points(RAYS.rays, torch.ones(GRID)), torch.ones(GRID))
    torch.testing.assert_close(points, RAYS.rays, rtol=0, atol=1e-5)
    assert there.angle() == pytest.approx(0.5, abs=1e-5)
    assert math.isclose(float(RAYS.log_lengths[28, 28]), 0.0, abs_tol=1e-3)
