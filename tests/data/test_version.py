"""Views of a photo in which every pixel says where it is, and of a scene whose points are known."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance
from torch.nn import functional

from spaceclip_plugin.data.sample import DepthSample
from spaceclip_plugin.data.version import Version
from spaceclip_plugin.depth.camera import Intrinsics, back_project
from spaceclip_plugin.errors import ConfigError
from spaceclip_worlds.render.tabletop import TabletopScenes

HW = (40, 56)
LEVELS = 4
"""Brightness per pixel of the photo's coordinates."""


def where(factor: float = 1) -> np.ndarray:
    """(40, 56, 3): red is the row, green the column, in steps of `factor`."""
    rows, columns = np.indices(HW)
    return (factor * np.stack([rows, columns, np.full(HW, 7)], axis=-1)).astype(np.uint8)


def depth_of(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    return (1 + rows + 100 * columns).astype(np.float32)


def place_of(depth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What `depth_of` was given."""
    code = np.rint(depth).astype(int) - 1
    return code % 100, code // 100


def seen_at(version: Version, hw: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of the photo that the centres of `hw` cells look at; (0, 0) is the photo's corner.

    Written down without the package: mirrored back, moved to the crop, turned about the middle.
    """
    v, u = np.indices(hw) + 0.5
    if version.mirrored:
        u = hw[1] - u
    y = (version.top + version.height * v / hw[0]) * HW[0] - HW[0] / 2
    x = (version.left + version.width * u / hw[1]) * HW[1] - HW[1] / 2
    place = (x + 1j * y) * np.exp(1j * np.radians(version.rotation_deg))
    return place.imag + HW[0] / 2, place.real + HW[1] / 2


def within(version: Version, hw: tuple[int, int], border: float) -> np.ndarray:
    """Which of the centres lie in the photo, and that many of its pixels from its border."""
    rows, columns = seen_at(version, hw)
    return (np.abs(rows - HW[0] / 2) < HW[0] / 2 - border) & (np.abs(columns - HW[1] / 2) < HW[1] / 2 - border)


@st.composite
def versions(draw: st.DrawFn, *, degrees: st.SearchStrategy[float]) -> Version:
    """Crops of whole pixels, turned and perhaps mirrored."""
    height, width = draw(st.integers(5, HW[0])), draw(st.integers(5, HW[1]))
    return Version(
        top=draw(st.integers(0, HW[0] - height)) / HW[0],
        left=draw(st.integers(0, HW[1] - width)) / HW[1],
        height=height / HW[0],
        width=width / HW[1],
        mirrored=draw(st.booleans()),
        rotation_deg=draw(degrees),
    )


def pixels(version: Version) -> tuple[int, int]:
    return round(version.height * HW[0]), round(version.width * HW[1])


anyhow = versions(degrees=st.floats(-180, 180).filter(bool))
upright = versions(degrees=st.just(0.0))


class TestImage:
    @pytest.mark.parametrize("mirrored", [False, True])
    def test_crops_and_mirrors(self, mirrored: bool) -> None:
        version = Version(top=0.25, left=0.125, height=0.5, width=0.75, mirrored=mirrored)
        expected = where()[10:30, 7:49]
        assert np.array_equal(version.image(where()), expected[:, ::-1] if mirrored else expected)

    def test_a_positive_rotation_turns_the_picture_counter_clockwise(self) -> None:
        photo = where()[:, :40]
        for quarters in (1, 2, 3):
            turned = Version(rotation_deg=90 * quarters).image(photo).astype(int)
            assert np.abs(turned - np.rot90(photo, quarters)).max() <= 1

    @settings(deadline=None)
    @given(anyhow)
    def test_shows_the_turned_crop_and_goes_on_at_the_edge(self, version: Version) -> None:
        image = version.image(where(LEVELS))
        assert image.shape == (*pixels(version), 3)
        for values, places, size in zip(
            np.moveaxis(image[..., :2], -1, 0), seen_at(version, pixels(version)), HW, strict=True
        ):
            # Pillow rounds down; a linear ramp is what bilinear interpolation gives back.
            expected = LEVELS * np.clip(places - 0.5, 0, size - 1)
            assert np.abs(values + 0.5 - expected).max() <= 0.5 + 1e-6
        assert (image[..., 2] == 7 * LEVELS).all()

    def test_the_photo_itself_is_left_as_it_was(self) -> None:
        photo = where()
        before = photo.copy()
        Version(rotation_deg=20, gamma=2.0, brightness=1.2).image(photo)
        assert np.array_equal(photo, before)
        assert Version(rotation_deg=20).image(photo).flags.writeable


class TestTarget:
    @settings(deadline=None)
    @given(upright)
    def test_is_of_the_pixels_the_image_shows(self, version: Version) -> None:
        image = version.image(where()).astype(int)
        target = version.target(depth_of(*np.indices(HW)), image.shape[:2])
        assert target.dtype == np.float32
        np.testing.assert_allclose(target, depth_of(image[..., 0], image[..., 1]) * version.scale, rtol=1e-6)
        assert version.scale == pytest.approx(math.sqrt(image.shape[0] * image.shape[1] / (HW[0] * HW[1])))

    @settings(deadline=None)
    @given(anyhow)
    def test_agrees_with_the_turned_image_within_a_pixel(self, version: Version) -> None:
        image = version.image(where(LEVELS)) / LEVELS
        target = version.target(depth_of(*np.indices(HW)), pixels(version))
        assert target.dtype == np.float32
        inside = within(version, pixels(version), 0.05)
        for shown, meant in zip(np.moveaxis(image[..., :2], -1, 0), place_of(target / version.scale), strict=True):
            assert (np.abs(shown - meant)[inside] <= 0.5 + 1 / LEVELS + 0.02).all()

    @settings(deadline=None)
    @given(anyhow, st.sampled_from([1, 2, 3]), st.tuples(st.integers(1, 60), st.integers(1, 60)))
    def test_turned_depth_is_the_nearest_or_unknown_beyond_the_photo(
        self, version: Version, factor: int, hw: tuple[int, int]
    ) -> None:
        size = (HW[0] * factor, HW[1] * factor)
        # Far above 0 even at the corner, and linear in the place: off by what the nearest pixel is off.
        rows, columns = ((i + 0.5) / factor for i in np.indices(size))
        inside = within(version, hw, 0.05)
        for values, places in zip((rows, columns), seen_at(version, hw), strict=True):
            seen = version.target((values + 1000).astype(np.float32), hw) / version.scale
            assert (np.abs(seen - 1000 - places)[inside] <= 0.5 / factor + 0.03).all()

    @settings(deadline=None)
    @given(anyhow)
    def test_what_lies_beyond_the_photo_is_unknown(self, version: Version) -> None:
        hw = pixels(version)
        target = version.target(np.ones(HW, np.float32), hw)
        assert (target[within(version, hw, 0.02)] > 0).all()
        assert (target[~within(version, hw, -0.73)] == 0).all()  # a cell reaches half its diagonal from its centre

    @settings(deadline=None)
    @given(anyhow)
    def test_where_nothing_is_stays_so_and_spoils_no_depth(self, version: Version) -> None:
        hw = pixels(version)
        depth_m = np.ones(HW, np.float32)
        depth_m[: HW[0] // 2] = np.inf
        depth_m[:, 0] = 0
        target, finite = (version.target(values, hw) for values in (depth_m, np.where(depth_m > 1, 1, depth_m)))
        assert not np.isnan(target).any()
        np.testing.assert_array_equal(np.where(np.isinf(target), np.float32(version.scale), target), finite)

    @settings(deadline=None)
    @given(upright, st.sampled_from([1, 3]), st.sampled_from([-1e-7, 1e-7]))
    def test_a_rotation_of_almost_nothing_changes_nothing(self, version: Version, factor: int, degrees: float) -> None:
        depth = depth_of(*np.indices((HW[0] * factor, HW[1] * factor)))
        turned = Version(version.top, version.left, version.height, version.width, version.mirrored, degrees)
        assert np.array_equal(turned.target(depth, pixels(version)), version.target(depth, pixels(version)))
        shown, expected = turned.image(where(LEVELS)).astype(int), version.image(where(LEVELS))
        assert np.abs(shown - expected).max() <= 1

    @settings(deadline=None)
    @given(versions(degrees=st.floats(-45, 45).filter(bool)), st.sampled_from([(20, 84), (80, 28), (40, 112)]))
    def test_depth_stretched_against_the_photo_turns_with_it(self, version: Version, depth_hw: tuple[int, int]) -> None:
        stretched = dataclasses.replace(version, photo_aspect=HW[1] / HW[0])
        hw = pixels(version)
        inside = within(version, hw, 0.05)
        for axis, places in enumerate(seen_at(version, hw)):
            values = (np.indices(depth_hw)[axis] + 0.5) * HW[axis] / depth_hw[axis]
            seen = stretched.target((values + 1000).astype(np.float32), hw) / version.scale - 1000
            half = 0.5 * HW[axis] / depth_hw[axis]
            assert (np.abs(seen - places)[inside] <= half + 0.03).all()

    @pytest.mark.parametrize("factor", [2, 3])
    @settings(deadline=None)
    @given(version=upright)
    def test_depth_of_another_resolution_covers_the_same_view(self, version: Version, factor: int) -> None:
        # Depth at `factor` times the image's resolution, each pixel saying where on the image it lies.
        rows, columns = ((i + 0.5) / factor for i in np.indices((HW[0] * factor, HW[1] * factor)))
        image = version.image(where())
        for side, values in enumerate((rows, columns)):
            seen = version.target(values.astype(np.float32), image.shape[:2]) / version.scale
            # The middle of the pixel, or half a depth pixel beside it where it falls between two.
            assert np.abs(seen - (image[..., side] + 0.5)).max() <= 0.5 / factor + 1e-4

    @pytest.mark.parametrize("hw", [(20, 28), (13, 17), (80, 112), (1, 1)])
    def test_of_the_photo_are_the_nearest_pixels(self, hw: tuple[int, int]) -> None:
        depth = depth_of(*np.indices(HW))
        expected = functional.interpolate(torch.from_numpy(depth)[None, None], hw, mode="nearest-exact")[0, 0].numpy()
        assert np.array_equal(Version().target(depth, hw), expected)
        assert np.array_equal(Version(mirrored=True).target(depth, hw), expected[:, ::-1])

    @pytest.mark.parametrize("degrees", [0.0, 7.0])
    def test_unknown_stays_unknown(self, degrees: float) -> None:
        version = Version(height=0.5, mirrored=True, rotation_deg=degrees)
        assert (version.target(np.zeros(HW, np.float32), (9, 9)) == 0).all()

    @pytest.mark.parametrize("mirrored", [False, True])
    def test_sparse_depth_keeps_what_lies_off_the_centre_of_a_cell(self, mirrored: bool) -> None:
        depth = np.zeros((12, 16), np.float32)
        for row in range(3):
            for column in range(4):  # one known pixel in every cell of 4x4, each time elsewhere
                depth[4 * row + (row + column) % 4, 4 * column + (2 * row + column) % 4] = 1 + 4 * row + column
        target = Version(mirrored=mirrored).target(depth, (3, 4))
        expected = 1 + np.arange(12, dtype=np.float32).reshape(3, 4)
        assert np.array_equal(target, expected[:, ::-1] if mirrored else expected)

    @pytest.mark.parametrize("mirrored", [False, True])
    def test_sparse_depth_is_filled_alike_with_and_without_a_rotation(self, mirrored: bool) -> None:
        generator = np.random.default_rng(0)
        # Cells of 2.5 pixels: no place in them is on a border between pixels.
        depth = (depth_of(*np.indices((15, 20))) * (generator.random((15, 20)) < 0.4)).astype(np.float32)
        target = Version(mirrored=mirrored).target(depth, (6, 8))
        assert 0 < np.count_nonzero(target == 0) < 10
        assert np.array_equal(Version(mirrored=mirrored, rotation_deg=1e-7).target(depth, (6, 8)), target)

    @pytest.mark.parametrize("hw", [(8, 8), (12, 3), (3, 12)])
    @pytest.mark.parametrize(("degrees", "mirrored"), [(-45.0, False), (30.0, True)])
    def test_no_pixel_of_sparse_depth_slips_between_the_cells_of_a_turned_view(
        self, degrees: float, mirrored: bool, hw: tuple[int, int]
    ) -> None:
        size = 24
        version = Version(rotation_deg=degrees, mirrored=mirrored)
        for row, column in np.ndindex(8, 8):
            x, y = column + 8.5 - size / 2, row + 8.5 - size / 2
            depth = np.zeros((size, size), np.float32)
            depth[row + 8, column + 8] = 2.0
            known = np.argwhere(version.target(depth, hw))
            assert len(known) > 0
            spot = complex(x, y) * np.exp(-1j * math.radians(degrees))
            for cell, place, count in zip(known.T, (spot.imag, -spot.real if mirrored else spot.real), hw, strict=True):
                # The turned pixel, of which half the diagonal is sqrt(0.5), reaches into the cell.
                apart = np.abs((cell + 0.5) * size / count - (place + size / 2))
                assert apart.max() <= 0.5 * size / count + math.sqrt(0.5) + 0.01


class TestColours:
    def test_each_by_hand(self) -> None:
        photo = np.full((*HW, 3), (100, 60, 200), np.uint8)
        assert (Version(brightness=1.2).image(photo) == (120, 72, 240)).all()
        assert (Version(gains=(1.1, 0.9, 1.0)).image(photo) == (110, 54, 200)).all()
        assert (Version(brightness=1.3, gains=(1.0, 1.0, 1.1)).image(photo)[..., 2] == 255).all()
        grey = Version(saturation=0.0).image(photo)
        assert (grey.max(axis=-1) == grey.min(axis=-1)).all()
        striped = photo.copy()
        striped[:, ::2] = 20
        flat = Version(contrast=0.5).image(striped)
        assert abs(float(np.ptp(flat[..., 0])) - 40) <= 1
        assert np.array_equal(Version().image(striped), striped)

    @pytest.mark.parametrize("seed", range(8))
    def test_all_together_are_pillows_one_after_the_other_to_the_bit(self, seed: int) -> None:
        generator = np.random.default_rng(seed)
        photo = generator.integers(0, 256, (*HW, 3), dtype=np.uint8)
        brightness, contrast, saturation, gamma, *gains = (float(factor) for factor in generator.uniform(0.4, 1.7, 7))
        expected = Image.fromarray(photo).point([round(255 * (level / 255) ** gamma) for level in range(256)] * 3)
        expected = ImageEnhance.Brightness(expected).enhance(brightness)
        expected = ImageEnhance.Contrast(expected).enhance(contrast)
        expected = ImageEnhance.Color(expected).enhance(saturation)
        gained = np.clip(np.rint(np.asarray(expected, np.float32) * np.asarray(gains, np.float32)), 0, 255)
        version = Version(gamma=gamma, brightness=brightness, contrast=contrast, saturation=saturation, gains=(*gains,))
        assert np.array_equal(version.image(photo), gained.astype(np.uint8))

    def test_gamma_is_an_exponent_between_black_and_white(self) -> None:
        grey = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=-1)
        for gamma in (0.5, 2.0):
            expected = np.rint(255 * (np.arange(256) / 255) ** gamma)
            assert np.array_equal(Version(gamma=gamma).image(grey)[0, :, 1], expected)

    def test_gamma_comes_before_brightness(self) -> None:
        # 255 (100 / 255)^2 = 39, half as much again is 58; the other way round it would be 88.
        assert (Version(gamma=2.0, brightness=1.5).image(np.full((2, 2, 3), 100, np.uint8)) == 58).all()

    def test_turned_photos_are_recoloured_too(self) -> None:
        turned = Version(rotation_deg=30.0, brightness=0.5, mirrored=True).image(np.full((9, 12, 3), 80, np.uint8))
        assert (turned == 40).all()


@pytest.fixture(scope="module")
def scene() -> DepthSample:
    """A rendered scene, cropped so that its optical axis is far from the image's centre."""
    sample = TabletopScenes(1, image_hw=(96, 128), seed=5)[0]
    assert sample.intrinsics is not None
    camera = sample.intrinsics.cropped(30, 12, (60, 80))
    assert abs(camera.cy_px - 30) > 10
    assert abs(camera.cx_px - 40) > 10
    return DepthSample(sample.image[30:90, 12:92], sample.depth_m[30:90, 12:92], "scene", camera)


class TestIntrinsics:
    @pytest.mark.parametrize(
        "version",
        [
            Version(),
            Version(mirrored=True),
            Version(top=0.25, left=0.1, height=0.5, width=0.7),
            Version(rotation_deg=0.5),
            Version(rotation_deg=-0.5, mirrored=True),
            Version(rotation_deg=17.0, top=0.1, left=0.2, height=0.6, width=0.5, mirrored=True),
            Version(rotation_deg=-33.0, top=0.3, left=0.0, height=0.7, width=0.9),
            Version(rotation_deg=117.0, top=0.1, left=0.2, height=0.6, width=0.6, mirrored=True),
        ],
    )
    def test_points_are_the_scenes_rolled_and_mirrored(self, scene: DepthSample, version: Version) -> None:
        original = scene.intrinsics
        assert original is not None
        camera = version.intrinsics(original)
        assert camera.image_hw == version.image(scene.image).shape[:2]
        depth_m = version.target(scene.depth_m, camera.image_hw) / np.float32(version.scale)
        points = back_project(torch.from_numpy(depth_m)[None].double(), camera)[0].numpy()[depth_m > 0]
        if version.mirrored:
            points[:, 0] *= -1
        turn = np.exp(1j * math.radians(version.rotation_deg))  # back: a roll about the optical axis
        rolled = (points[:, 0] + 1j * points[:, 1]) * turn
        z = points[:, 2]
        # They lie on the scene: the pixel of the photo that sees a point there, sees it as far.
        columns = original.fx_px * rolled.real / z + original.cx_px
        rows = original.fy_px * rolled.imag / z + original.cy_px
        height, width = scene.depth_m.shape
        place = (rows.clip(0, height - 1).astype(int), columns.clip(0, width - 1).astype(int))
        same = np.abs(scene.depth_m[place] - z) < 1e-5
        assert same.mean() > 0.97  # the others look between two pixels
        # And the very pixel's own point is within the half pixel that the nearest may be off, and half a pixel's
        # diagonal more at the edge, where a cell that is mostly beyond the photo has the depth of its other part.
        own = back_project(torch.from_numpy(scene.depth_m)[None].double(), original)[0].numpy()[place]
        apart_px = np.abs(rolled - (own[:, 0] + 1j * own[:, 1])) / z * original.fx_px
        inside = (rows > 0) & (rows < height) & (columns > 0) & (columns < width)
        assert inside.mean() > 0.97
        assert apart_px[same & inside].max() <= math.sqrt(0.5) + 0.02
        assert apart_px[same].max() <= 2 * math.sqrt(0.5) + 0.02

    @pytest.mark.parametrize("degrees", [0.0, 12.0])
    def test_the_scaled_target_with_the_photos_focal_length_has_the_true_x_and_y(
        self, scene: DepthSample, degrees: float
    ) -> None:
        version = Version(top=0.2, left=0.1, height=0.5, width=0.5, rotation_deg=degrees)
        original = scene.intrinsics
        assert original is not None
        camera = version.intrinsics(original)
        true_m = version.target(scene.depth_m, (60, 80)) / np.float32(version.scale)
        true = back_project(torch.from_numpy(true_m)[None], camera)
        resized = camera.resized((60, 80))
        apparent_camera = Intrinsics(original.fx_px, original.fy_px, resized.cx_px, resized.cy_px, (60, 80))
        apparent = back_project(torch.from_numpy(version.target(scene.depth_m, (60, 80)))[None], apparent_camera)
        torch.testing.assert_close(apparent, true * torch.tensor([1.0, 1.0, 0.5]))

    def test_by_hand(self) -> None:
        camera = Intrinsics(100.0, 120.0, 30.0, 15.0, (40, 56))
        version = Version(top=0.25, left=0.125, height=0.5, width=0.75)
        assert version.intrinsics(camera) == Intrinsics(100.0, 120.0, 23.0, 5.0, (20, 42))
        mirrored = Version(top=0.25, left=0.125, height=0.5, width=0.75, mirrored=True)
        assert mirrored.intrinsics(camera) == Intrinsics(100.0, 120.0, 19.0, 5.0, (20, 42))
        # The principal point, 2 px right of the centre and 5 px above it, turns counter-clockwise to the left and up.
        turned = Version(rotation_deg=90).intrinsics(Intrinsics(100.0, 100.0, 30.0, 15.0, (40, 56)))
        assert (turned.cx_px, turned.cy_px) == pytest.approx((23.0, 18.0))

    def test_pixels_that_are_not_square_cannot_be_turned(self) -> None:
        nearly, oblong = (Intrinsics(100.0, fy_px, 20.0, 28.0, HW) for fy_px in (100.9, 101.1))
        assert Version(rotation_deg=0.5).intrinsics(nearly).fy_px == 100.9
        for camera in (oblong, Intrinsics(101.1, 100.0, 20.0, 28.0, HW)):
            assert Version(mirrored=True).intrinsics(camera).fx_px == camera.fx_px
            with pytest.raises(ConfigError, match=r"turned by 0\.5 degrees .* square, got fx=10"):
                Version(rotation_deg=0.5).intrinsics(camera)

    @settings(deadline=None)
    @given(st.tuples(*[st.floats(0, 0.4), st.floats(0.3, 0.6)] * 2), st.floats(-5, 5), st.booleans())
    def test_are_of_the_images_size(self, box: tuple[float, ...], degrees: float, mirrored: bool) -> None:
        version = Version(box[0], box[2], box[1], box[3], mirrored, degrees)
        camera = version.intrinsics(Intrinsics(50.0, 50.0, 20.0, 28.0, HW))
        assert camera.image_hw == version.image(where()).shape[:2]
        assert (camera.fx_px, camera.fy_px) == (50.0, 50.0)
