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

from spaceclip_plugin.data.augmentation import AUGMENTATIONS, Augmentation
from spaceclip_plugin.data.version import Version
from spaceclip_plugin.errors import ConfigError

HW = (40, 56)
RECOMMENDED = AUGMENTATIONS["recommended"]
ANY = pytest.mark.parametrize("name", list(AUGMENTATIONS))


def many(drawn: Augmentation, image_hw: tuple[int, int]) -> list[Version]:
    return [
        drawn.version(number, seed=0, index=index, image_hw=image_hw) for index in range(300) for number in (2, 3, 4)
    ]


def first(count: int, drawn: Augmentation, *, seed: int, index: int, image_hw: tuple[int, int] = HW) -> list[Version]:
    return [drawn.version(number, seed=seed, index=index, image_hw=image_hw) for number in range(count)]


def check_spread(values: list[float], low: float, high: float) -> None:
    """Within the range, near both of its ends and even on average."""
    span = high - low
    assert low - 1e-9 <= min(values) < low + 0.05 * span + 2e-3
    assert high + 1e-9 >= max(values) > high - 0.05 * span - 2e-3
    assert np.mean(values) == pytest.approx((low + high) / 2, abs=0.05 * span)


@ANY
def test_the_first_two_are_the_photo_and_its_mirror_image(name: str) -> None:
    assert first(2, Augmentation.named(name), seed=3, index=5) == [Version(), Version(mirrored=True)]


def test_without_mirroring_the_second_is_random_too() -> None:
    drawn = Augmentation(smallest_crop=0.5, mirror=False)
    versions = first(40, drawn, seed=0, index=0, image_hw=(480, 640))
    assert versions[0] == Version()
    assert len(set(versions)) == 40
    assert versions[1].height < 1
    assert not any(version.mirrored for version in versions)


@ANY
def test_a_version_is_its_number_its_image_and_the_seed(name: str) -> None:
    drawn = Augmentation.named(name)
    versions = first(9, drawn, seed=7, index=3)
    assert len(set(versions)) == 9
    for number, version in enumerate(versions):
        assert drawn.version(number, seed=7, index=3, image_hw=HW) == version
    for seed, index in ((8, 3), (7, 4), (3, 7)):
        others = first(9, drawn, seed=seed, index=index)
        assert not set(others[2:]) & set(versions)


def test_late_versions_are_had_without_the_earlier_ones() -> None:
    late = {RECOMMENDED.version(10**9 + i, seed=0, index=10**6, image_hw=HW) for i in range(100)}
    assert len(late) == 100


def test_recommended_versions_spread_over_their_ranges() -> None:
    versions = many(RECOMMENDED, (480, 640))
    check_spread([version.scale for version in versions], 0.7, 1.0)
    for name in ("brightness", "contrast", "saturation"):
        check_spread([getattr(version, name) for version in versions], 0.7, 1.3)
    for channel in range(3):
        check_spread([version.gains[channel] for version in versions], 0.9, 1.1)
    check_spread([version.top / (1 - version.height) for version in versions if version.height < 0.95], 0.0, 1.0)
    check_spread([version.left / (1 - version.width) for version in versions if version.width < 0.95], 0.0, 1.0)
    check_spread([float(version.mirrored) for version in versions], 0.0, 1.0)
    assert all(abs(version.height - version.width) < 1 / 480 for version in versions)
    assert {(version.rotation_deg, version.gamma) for version in versions} == {(0.0, 1.0)}


@pytest.mark.parametrize(
    ("name", "image_hw", "crop_hw"),
    [
        ("published-nyu", (480, 640), (480, 640)),
        ("published-nyu", (600, 700), (480, 640)),
        ("published-kitti", (375, 1242), (352, 704)),
        ("published-kitti", (300, 1216), (300, 704)),
    ],
)
def test_published_versions_spread_over_their_ranges(
    name: str, image_hw: tuple[int, int], crop_hw: tuple[int, int]
) -> None:
    versions = many(Augmentation.named(name), image_hw)
    for size, whole, starts, extents in (
        (crop_hw[0], image_hw[0], [version.top for version in versions], {version.height for version in versions}),
        (crop_hw[1], image_hw[1], [version.left for version in versions], {version.width for version in versions}),
    ):
        assert extents == {size / whole}
        pixels = [start * whole for start in starts]
        np.testing.assert_allclose(pixels, np.rint(pixels), atol=1e-9)
        check_spread(pixels, 0, whole - size)
    check_spread([version.rotation_deg for version in versions], -0.5, 0.5)
    for field in ("gamma", "brightness"):
        check_spread([getattr(version, field) for version in versions], 0.9, 1.1)
    for channel in range(3):
        check_spread([version.gains[channel] for version in versions], 0.9, 1.1)
    check_spread([float(version.mirrored) for version in versions], 0.0, 1.0)
    assert {(version.contrast, version.saturation) for version in versions} == {(1.0, 1.0)}


def test_crops_are_anywhere_up_to_the_last_pixel() -> None:
    versions = many(Augmentation(crop_hw=(3, 2)), (5, 4))
    assert {round(version.top * 5) for version in versions} == {0, 1, 2}
    assert {round(version.left * 4) for version in versions} == {0, 1, 2}


def test_the_values_of_a_version_are_independent() -> None:
    versions = many(Augmentation.named("published-kitti"), (375, 1242))
    columns = [
        (
            version.top,
            version.left,
            version.mirrored,
            version.rotation_deg,
            version.gamma,
            version.brightness,
            *version.gains,
        )
        for version in versions
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
def test_versions_fit_any_photo(drawn: Augmentation, image_hw: tuple[int, int], number: int) -> None:
    version = drawn.version(number, seed=0, index=0, image_hw=image_hw)
    image = version.image(np.full((*image_hw, 3), 90, np.uint8))
    for start, extent, shown, whole in (
        (version.top, version.height, image.shape[0], image_hw[0]),
        (version.left, version.width, image.shape[1], image_hw[1]),
    ):
        assert shown >= 1
        assert start >= 0
        assert start + extent <= 1 + 1e-9
        assert extent * whole == pytest.approx(shown)  # on the borders of pixels
    assert (image == 90).all()
    assert version.target(np.ones(image_hw, np.float32), (4, 5)).shape == (4, 5)


def test_turned_depth_may_be_stretched_against_the_photo() -> None:
    """Depth at half the photo's height and all its width shows the same places."""
    drawn = Augmentation(smallest_crop=0.8, rotation_deg=40.0)
    rows, columns = np.indices(HW)
    for number in range(2, 8):
        version = drawn.version(number, seed=1, index=0, image_hw=HW)
        assert abs(version.rotation_deg) > 0.5
        for places, off in ((rows, 1), (columns, 0)):  # every other row is that of the one above it
            depth = (1000.0 + places).astype(np.float32)
            full = version.target(depth, HW)
            assert np.array_equal(dataclasses.replace(version, photo_aspect=None).target(depth, HW), full)
            halved = version.target(depth[::2], HW)
            both = (full > 0) & (halved > 0)
            assert both.mean() > 0.6
            # At the photo's edge, a cell may show another of the pixels in it.
            assert np.mean(np.abs(full - halved)[both] <= (off + 0.01) * version.scale) > 0.97


def test_constant_ranges_give_constants() -> None:
    drawn = Augmentation(gamma=(2.0, 2.0), gains=(0.5, 0.5))
    version = drawn.version(2, seed=0, index=0, image_hw=HW)
    assert (version.gamma, version.gains, version.brightness, version.rotation_deg) == (2.0, (0.5, 0.5, 0.5), 1.0, 0.0)
    assert (version.top, version.left, version.height, version.width) == (0, 0, 1, 1)


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
    assert Augmentation.named("recommended") == Augmentation(
        smallest_crop=0.7, brightness=(0.7, 1.3), contrast=(0.7, 1.3), saturation=(0.7, 1.3), gains=(0.9, 1.1)
    )
    for wrong, said in (("published-nyuu", "did you mean 'published-nyu'"), ("", "one of recommended, published-nyu")):
        with pytest.raises(ConfigError, match=said):
            Augmentation.named(wrong)
