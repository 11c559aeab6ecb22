"""Which versions of an image there are, and what they may be."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spaceclip_plugin.data.augment.augmentation import AUGMENTATIONS, Augmentation, augmentation, view_of, views_of
from spaceclip_plugin.data.augment.version import View
from spaceclip_plugin.errors import ConfigError

HW = (40, 56)
RECOMMENDED = AUGMENTATIONS["recommended"]
ANY = pytest.mark.parametrize("name", list(AUGMENTATIONS))


def many(drawn: Augmentation, image_hw: tuple[int, int]) -> list[View]:
    return [
        view
        for index in range(300)
        for view in views_of(5, augmentation=drawn, seed=0, index=index, image_hw=image_hw)[2:]
    ]


def check_spread(values: list[float], low: float, high: float) -> None:
    """Within the range, near both of its ends and even on average."""
    span = high - low
    assert low - 1e-9 <= min(values) < low + 0.05 * span + 2e-3
    assert high + 1e-9 >= max(values) > high - 0.05 * span - 2e-3
    assert np.mean(values) == pytest.approx((low + high) / 2, abs=0.05 * span)


@ANY
def test_the_first_two_are_the_photo_and_its_mirror_image(name: str) -> None:
    first = views_of(2, augmentation=augmentation(name), seed=3, index=5, image_hw=HW)
    assert first == (View(), View(mirrored=True))


def test_without_mirroring_the_second_is_random_too() -> None:
    drawn = Augmentation(smallest_crop=0.5, mirror=False)
    versions = views_of(40, augmentation=drawn, seed=0, index=0, image_hw=(480, 640))
    assert versions[0] == View()
    assert len(set(versions)) == 40
    assert versions[1].height < 1
    assert not any(view.mirrored for view in versions)


@ANY
def test_a_version_is_its_number_its_image_and_the_seed(name: str) -> None:
    drawn = augmentation(name)
    versions = views_of(9, augmentation=drawn, seed=7, index=3, image_hw=HW)
    assert len(set(versions)) == 9
    for number, version in enumerate(versions):
        assert view_of(number, augmentation=drawn, seed=7, index=3, image_hw=HW) == version
    for count in range(1, 9):
        assert views_of(count, augmentation=drawn, seed=7, index=3, image_hw=HW) == versions[:count]
    for seed, index in ((8, 3), (7, 4), (3, 7)):
        others = views_of(9, augmentation=drawn, seed=seed, index=index, image_hw=HW)
        assert not set(others[2:]) & set(versions)


def test_late_versions_are_had_without_the_earlier_ones() -> None:
    late = {view_of(10**9 + i, augmentation=RECOMMENDED, seed=0, index=10**6, image_hw=HW) for i in range(100)}
    assert len(late) == 100


def test_recommended_views_spread_over_their_ranges() -> None:
    views = many(RECOMMENDED, (480, 640))
    check_spread([view.scale for view in views], 0.7, 1.0)
    for name in ("brightness", "contrast", "saturation"):
        check_spread([getattr(view, name) for view in views], 0.7, 1.3)
    for channel in range(3):
        check_spread([view.gains[channel] for view in views], 0.9, 1.1)
    check_spread([view.top / (1 - view.height) for view in views if view.height < 0.95], 0.0, 1.0)
    check_spread([view.left / (1 - view.width) for view in views if view.width < 0.95], 0.0, 1.0)
    check_spread([float(view.mirrored) for view in views], 0.0, 1.0)
    assert all(abs(view.height - view.width) < 1 / 480 for view in views)
    assert {(view.rotation_deg, view.gamma) for view in views} == {(0.0, 1.0)}


@pytest.mark.parametrize(
    ("name", "image_hw", "crop_hw"),
    [
        ("published-nyu", (480, 640), (480, 640)),
        ("published-nyu", (600, 700), (480, 640)),
        ("published-kitti", (375, 1242), (352, 704)),
        ("published-kitti", (300, 1216), (300, 704)),
    ],
)
def test_published_views_spread_over_their_ranges(
    name: str, image_hw: tuple[int, int], crop_hw: tuple[int, int]
) -> None:
    views = many(augmentation(name), image_hw)
    for size, whole, starts, extents in (
        (crop_hw[0], image_hw[0], [view.top for view in views], {view.height for view in views}),
        (crop_hw[1], image_hw[1], [view.left for view in views], {view.width for view in views}),
    ):
        assert extents == {size / whole}
        pixels = [start * whole for start in starts]
        np.testing.assert_allclose(pixels, np.rint(pixels), atol=1e-9)
        check_spread(pixels, 0, whole - size)
    check_spread([view.rotation_deg for view in views], -0.5, 0.5)
    for field in ("gamma", "brightness"):
        check_spread([getattr(view, field) for view in views], 0.9, 1.1)
    for channel in range(3):
        check_spread([view.gains[channel] for view in views], 0.9, 1.1)
    check_spread([float(view.mirrored) for view in views], 0.0, 1.0)
    assert {(view.contrast, view.saturation) for view in views} == {(1.0, 1.0)}


def test_crops_are_anywhere_up_to_the_last_pixel() -> None:
    views = many(Augmentation(crop_hw=(3, 2)), (5, 4))
    assert {round(view.top * 5) for view in views} == {0, 1, 2}
    assert {round(view.left * 4) for view in views} == {0, 1, 2}


def test_the_values_of_a_version_are_independent() -> None:
    views = many(augmentation("published-kitti"), (375, 1242))
    columns = [
        (view.top, view.left, view.mirrored, view.rotation_deg, view.gamma, view.brightness, *view.gains)
        for view in views
    ]
    correlation = np.corrcoef(np.array(columns, float).T) - np.eye(len(columns[0]))
    assert np.abs(correlation).max() < 0.15


@settings(deadline=None)
@given(
    drawn=st.builds(Augmentation, st.floats(0.01, 1), rotation_deg=st.floats(0, 180), mirror=st.booleans())
    | st.builds(
        Augmentation, crop_hw=st.tuples(st.integers(1, 60), st.integers(1, 60)), rotation_deg=st.floats(0, 180)
    ),
    image_hw=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    number=st.integers(0, 2**40),
)
def test_views_fit_any_photo(drawn: Augmentation, image_hw: tuple[int, int], number: int) -> None:
    view = view_of(number, augmentation=drawn, seed=0, index=0, image_hw=image_hw)
    image = view.image(np.full((*image_hw, 3), 90, np.uint8))
    for start, extent, shown, whole in (
        (view.top, view.height, image.shape[0], image_hw[0]),
        (view.left, view.width, image.shape[1], image_hw[1]),
    ):
        assert shown >= 1
        assert start >= 0
        assert start + extent <= 1 + 1e-9
        assert extent * whole == pytest.approx(shown)  # on the borders of pixels
    assert (image == 90).all()
    assert view.target(np.ones(image_hw, np.float32), (4, 5)).shape == (4, 5)


def test_turned_depth_may_be_stretched_against_the_photo() -> None:
    """Depth at half the photo's height and all its width shows the same places."""
    drawn = Augmentation(smallest_crop=0.8, rotation_deg=40.0)
    rows, columns = np.indices(HW)
    for number in range(2, 8):
        view = view_of(number, augmentation=drawn, seed=1, index=0, image_hw=HW)
        assert abs(view.rotation_deg) > 0.5
        for places, off in ((rows, 1), (columns, 0)):  # every other row is that of the one above it
            depth = (1000.0 + places).astype(np.float32)
            full = view.target(depth, HW)
            assert np.array_equal(dataclasses.replace(view, photo_aspect=None).target(depth, HW), full)
            halved = view.target(depth[::2], HW)
            both = (full > 0) & (halved > 0)
            assert both.mean() > 0.6
            # At the photo's edge, a cell may show another of the pixels in it.
            assert np.mean(np.abs(full - halved)[both] <= (off + 0.01) * view.scale) > 0.97


def test_constant_ranges_give_constants() -> None:
    drawn = Augmentation(gamma=(2.0, 2.0), gains=(0.5, 0.5))
    view = view_of(2, augmentation=drawn, seed=0, index=0, image_hw=HW)
    assert (view.gamma, view.gains, view.brightness, view.rotation_deg) == (2.0, (0.5, 0.5, 0.5), 1.0, 0.0)
    assert (view.top, view.left, view.height, view.width) == (0, 0, 1, 1)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"smallest_crop": 0.0}, "smallest_crop must be a number from 0.01 to 1.0, got 0.0"),
        ({"smallest_crop": 1.01}, "smallest_crop"),
        ({"rotation_deg": -1.0}, "rotation_deg must be a number from 0.0 to 180.0"),
        ({"rotation_deg": math.nan}, "rotation_deg"),
        ({"crop_hw": (480,)}, "crop_hw must be a list of 2"),
        ({"crop_hw": (480, 0)}, r"crop_hw\[1\] must be an integer from 1"),
        ({"crop_hw": (480.0, 640)}, r"crop_hw\[0\]"),
        ({"crop_hw": (48, 64), "smallest_crop": 0.7}, "fixed size or of a random one.*leave one of them out"),
        ({"gamma": (0.0, 1.0)}, r"gamma\[0\] must be a number from 0.1 to 10"),
        ({"brightness": (1.1, 0.9)}, r"brightness is a range .* got \(1.1, 0.9\); swap"),
        ({"contrast": (0.9, math.inf)}, r"contrast\[1\]"),
        ({"saturation": 1.1}, "saturation must be a list of 2"),
        ({"gains": (-0.1, 1.1)}, r"gains\[0\]"),
        ({"mirror": 1}, "mirror must be true or false, got 1"),
    ],
)
def test_refuses(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Augmentation(**values)


def test_lists_from_a_file_are_as_good_as_tuples() -> None:
    read = json.loads('{"crop_hw": [48, 64], "gamma": [1, 2], "gains": [0.9, 1.1]}')
    drawn = Augmentation(**read)
    assert drawn == Augmentation(crop_hw=(48, 64), gamma=(1.0, 2.0), gains=(0.9, 1.1))
    assert len({drawn, Augmentation()}) == 2


def test_names() -> None:
    assert augmentation("recommended") == Augmentation(
        smallest_crop=0.7, brightness=(0.7, 1.3), contrast=(0.7, 1.3), saturation=(0.7, 1.3), gains=(0.9, 1.1)
    )
    for wrong, said in (("published-nyuu", "did you mean 'published-nyu'"), ("", "known: recommended, published-nyu")):
        with pytest.raises(ConfigError, match=said):
            augmentation(wrong)
