"""Photos beside depth that a host padded or cropped: every point has the colour of what lies there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from spaceclip_plugin.depth.arrays import DepthArrays
from spaceclip_plugin.depth.camera import Intrinsics
from spaceclip_plugin.depth.depth_map import DepthMap
from spaceclip_plugin.depth.image_mapping import ImageMapping
from spaceclip_plugin.depth.photo import colours_at_pixels, is_of_camera
from spaceclip_plugin.depth.pictures import depth_picture
from spaceclip_plugin.errors import ConfigError

CAMERA = Intrinsics(40.0, 40.0, 32.0, 16.0, (32, 64))
PADDED = ImageMapping.letterboxed((32, 64), (16, 16))  # a quarter of the size, in rows 4 to 11
CROPPED = ImageMapping.centre_cropped((32, 64), (16, 16))  # half the size, columns 16 to 47 of the camera


def numbered(height: int, width: int) -> np.ndarray:
    """A photo whose red is its row and whose green is its column, of 32x64."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows * 32 // height, columns * 64 // width, 0 * rows], -1).astype(np.uint8)


def wall(mapping: ImageMapping | None) -> DepthMap:
    return DepthMap(
        torch.full((1, 16, 16), 2.0), torch.ones(1, 16, 16, dtype=torch.bool), None, 0, (16, 16), True, mapping=mapping
    )


def test_the_cameras_photo_where_the_host_pads() -> None:
    colours = colours_at_pixels(numbered(32, 64), (16, 16), PADDED)
    assert colours[4:12, 0, 0].tolist() == [2, 6, 10, 14, 18, 22, 26, 30]
    assert colours[4, :, 1].tolist() == [4 * column + 2 for column in range(16)]


def test_the_cameras_photo_where_the_host_crops() -> None:
    colours = colours_at_pixels(numbered(32, 64), (16, 16), CROPPED)
    assert colours[:, 0, 0].tolist() == [2 * row + 1 for row in range(16)]
    assert colours[0, :, 1].tolist() == [16 + 2 * column + 1 for column in range(16)]


@pytest.mark.parametrize("mapping", [PADDED, CROPPED])
def test_at_another_resolution_of_photo_and_depth(mapping: ImageMapping) -> None:
    whole = colours_at_pixels(numbered(32, 64), (16, 16), mapping)
    np.testing.assert_array_equal(colours_at_pixels(numbered(128, 256), (16, 16), mapping), whole)
    fine = colours_at_pixels(numbered(128, 256), (48, 48), mapping)
    np.testing.assert_array_equal(fine[1::3, 1::3][4:12], whole[4:12])


def test_the_towers_photo_is_known_by_its_size() -> None:
    tower = np.arange(768, dtype=np.uint16).astype(np.uint8).reshape(16, 16, 3)
    np.testing.assert_array_equal(colours_at_pixels(tower, (16, 16), PADDED), tower)
    np.testing.assert_array_equal(colours_at_pixels(tower, (16, 16)), tower)


def test_a_stretched_photo_is_the_same_either_way() -> None:
    stretched = ImageMapping.stretched((32, 64), (16, 16))
    with_mapping = colours_at_pixels(numbered(32, 64), (16, 16), stretched)
    np.testing.assert_array_equal(with_mapping, colours_at_pixels(numbered(32, 64), (16, 16)))


@pytest.mark.parametrize(
    ("hw", "of_camera"), [((32, 64), True), ((16, 16), False), ((8, 16), True), ((64, 64), False), ((320, 640), True)]
)
def test_which_image_a_photo_is(hw: tuple[int, int], of_camera: bool) -> None:
    assert is_of_camera(hw, PADDED) is of_camera
    assert not is_of_camera(hw, None)


def test_a_photo_of_neither_is_refused_by_size(tmp_path: Path) -> None:
    for call in (
        lambda: DepthArrays.of(wall(PADDED), CAMERA, image=numbered(30, 40)),
        lambda: wall(PADDED).save_ply(tmp_path / "x.ply", CAMERA, image=numbered(30, 40)),
        lambda: depth_picture(wall(PADDED), numbered(30, 40)),
    ):
        with pytest.raises(ConfigError, match=r"30x40.*32x64.*16x16"):
            call()
    assert list(tmp_path.iterdir()) == []


def test_points_and_both_cameras_of_a_view() -> None:
    shown = DepthArrays.of(wall(PADDED), CAMERA, image=numbered(64, 128))
    assert shown.photo_intrinsics == CAMERA.resized((64, 128))
    assert shown.intrinsics == PADDED.to_tower(CAMERA)
    assert shown.points_m is not None
    assert shown.point_colours is not None
    # Back through the camera's own matrix every point lies in the photo where its colour says.
    u = 40 * shown.points_m[:, 0] / shown.points_m[:, 2] + 32
    v = 40 * shown.points_m[:, 1] / shown.points_m[:, 2] + 16
    assert len(u) == 8 * 16
    np.testing.assert_array_equal(np.floor(v + 1e-4), shown.point_colours[:, 0])
    np.testing.assert_array_equal(np.floor(u + 1e-4), shown.point_colours[:, 1])
    tower = DepthArrays.of(wall(PADDED), CAMERA, image=np.zeros((16, 16, 3), np.uint8))
    assert tower.photo_intrinsics == PADDED.to_tower(CAMERA)


def test_a_picture_has_the_depth_where_the_photo_shows_it() -> None:
    """No bar of padding, dark grey, stands beside a photo that has none."""
    shown = depth_picture(wall(PADDED), numbered(32, 64), tile_width_px=64)
    assert not (shown == 48).all(-1).any()
    assert (depth_picture(wall(PADDED), tile_width_px=64) == 48).all(-1).any()
