"""Views of an image in which every pixel says where it is."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch.nn import functional

from spaceclip_plugin.data.augmentation import View, views_of

HW = (40, 56)


def where() -> np.ndarray:
    """(40, 56, 3): red is the row, green the column."""
    rows, columns = np.indices(HW)
    return np.stack([rows, columns, np.full(HW, 7)], axis=-1).astype(np.uint8)


def depth_of(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    return (1 + rows + 100 * columns).astype(np.float32)


def uncoloured(view: View) -> View:
    return dataclasses.replace(view, brightness=1.0, contrast=1.0, saturation=1.0, gains=(1.0, 1.0, 1.0))


def test_the_first_two_are_the_photo_and_its_mirror_image() -> None:
    plain, mirrored = views_of(2, seed=3, index=5, image_hw=HW)
    assert (plain, mirrored) == (View(), View(mirrored=True))
    depth = depth_of(*np.indices(HW))
    for view, step in ((plain, 1), (mirrored, -1)):
        assert np.array_equal(view.image(where()), where()[:, ::step])
        assert np.array_equal(view.target(depth, HW), depth[:, ::step])


@pytest.mark.parametrize("view", views_of(12, seed=0, index=0, image_hw=HW)[2:])
def test_image_and_depth_show_the_same_place(view: View) -> None:
    image = uncoloured(view).image(where())
    height, width = image.shape[:2]
    rows, columns = image[..., 0].astype(int), image[..., 1].astype(int)
    # A rectangle of the original, every pixel of it once, mirrored or not.
    assert np.array_equal(rows, np.broadcast_to(rows[0, 0] + np.arange(height)[:, None], (height, width)))
    step = -1 if view.mirrored else 1
    assert np.array_equal(columns, np.broadcast_to(columns[0, 0] + step * np.arange(width), (height, width)))
    assert view.scale == pytest.approx(np.sqrt(height * width / (HW[0] * HW[1])))
    assert 0.68 < height / HW[0] <= 1
    assert abs(height / HW[0] - width / HW[1]) < 1 / HW[0]
    # At the crop's own size, depth is that of the very pixels of the image, nearer by the zoom.
    target = view.target(depth_of(*np.indices(HW)), (height, width))
    assert target.dtype == np.float32
    np.testing.assert_allclose(target, depth_of(rows, columns) * view.scale, rtol=1e-6)


@pytest.mark.parametrize("factor", [2, 3])
@pytest.mark.parametrize("view", views_of(6, seed=1, index=4, image_hw=HW))
def test_depth_of_another_resolution_covers_the_same_view(view: View, factor: int) -> None:
    # Depth at `factor` times the image's resolution, each pixel saying where on the image it lies.
    rows, columns = ((i + 0.5) / factor for i in np.indices((HW[0] * factor, HW[1] * factor)))
    image = uncoloured(view).image(where())
    for side, values in enumerate((rows, columns)):
        seen = view.target(values.astype(np.float32), image.shape[:2]) / view.scale
        # The middle of the pixel, or half a depth pixel beside it where it falls between two.
        assert np.abs(seen - (image[..., side] + 0.5)).max() <= 0.5 / factor + 1e-4


@pytest.mark.parametrize("hw", [(20, 28), (13, 17), (80, 112), (1, 1)])
def test_targets_are_the_nearest_pixels(hw: tuple[int, int]) -> None:
    depth = depth_of(*np.indices(HW))
    expected = functional.interpolate(torch.from_numpy(depth)[None, None], hw, mode="nearest-exact")[0, 0].numpy()
    assert np.array_equal(View().target(depth, hw), expected)
    assert np.array_equal(View(mirrored=True).target(depth, hw), expected[:, ::-1])


def test_unknown_stays_unknown() -> None:
    depth = np.zeros(HW, np.float32)
    assert all((view.target(depth, (9, 9)) == 0).all() for view in views_of(5, seed=0, index=0, image_hw=HW))


@pytest.mark.parametrize("mirrored", [False, True])
def test_sparse_depth_keeps_what_lies_off_the_centre_of_a_cell(mirrored: bool) -> None:
    depth = np.zeros((12, 16), np.float32)
    for row in range(3):
        for column in range(4):  # one known pixel in every cell of 4x4, each time elsewhere
            depth[4 * row + (row + column) % 4, 4 * column + (2 * row + column) % 4] = 1 + 4 * row + column
    target = View(mirrored=mirrored).target(depth, (3, 4))
    expected = 1 + np.arange(12, dtype=np.float32).reshape(3, 4)
    assert np.array_equal(target, expected[:, ::-1] if mirrored else expected)


def test_fewer_views_are_the_first_of_more() -> None:
    many = views_of(9, seed=7, index=3, image_hw=HW)
    assert len(set(many)) == 9
    for count in range(1, 9):
        assert views_of(count, seed=7, index=3, image_hw=HW) == many[:count]
    for seed, index in ((8, 3), (7, 4)):
        assert not set(views_of(9, seed=seed, index=index, image_hw=HW)[2:]) & set(many)


def test_random_views_spread_over_their_ranges() -> None:
    views = [view for index in range(300) for view in views_of(5, seed=0, index=index, image_hw=(480, 640))[2:]]
    for values, low, high in (
        ([view.scale for view in views], 0.7, 1.0),
        ([view.brightness for view in views], 0.7, 1.3),
        ([view.contrast for view in views], 0.7, 1.3),
        ([view.saturation for view in views], 0.7, 1.3),
        ([gain for view in views for gain in view.gains], 0.9, 1.1),
        ([view.top / (1 - view.height) for view in views if view.height < 0.95], 0.0, 1.0),
        ([view.left / (1 - view.width) for view in views if view.width < 0.95], 0.0, 1.0),
        ([float(view.mirrored) for view in views], 0.0, 1.0),
    ):
        assert low - 2e-3 <= min(values)
        assert max(values) <= high + 2e-3
        assert np.mean(values) == pytest.approx((low + high) / 2, abs=0.05 * (high - low))
    assert {view.mirrored for view in views} == {False, True}


def test_colours() -> None:
    photo = np.full((*HW, 3), (100, 60, 200), np.uint8)
    assert (View(brightness=1.2).image(photo) == (120, 72, 240)).all()
    assert (View(gains=(1.1, 0.9, 1.0)).image(photo) == (110, 54, 200)).all()
    assert (View(brightness=1.3, gains=(1.0, 1.0, 1.1)).image(photo)[..., 2] == 255).all()
    grey = View(saturation=0.0).image(photo)
    assert (grey.max(axis=-1) == grey.min(axis=-1)).all()
    striped = photo.copy()
    striped[:, ::2] = 20
    flat = View(contrast=0.5).image(striped)
    assert abs(float(np.ptp(flat[..., 0])) - 40) <= 1
    assert np.array_equal(View().image(striped), striped)


def test_photos_of_a_few_pixels() -> None:
    for hw in ((1, 1), (1, 7), (3, 2)):
        for view in views_of(8, seed=0, index=0, image_hw=hw):
            image = view.image(np.full((*hw, 3), 90, np.uint8))
            assert 0 not in image.shape
            assert view.target(np.ones(hw, np.float32), (4, 4)).shape == (4, 4)
