from __future__ import annotations

import numpy as np
import pytest
from exif_files import ORIENTATIONS, stored

from spaceclip_plugin.data.files.orientation import as_stored, orientation_tag, upright, upright_hw, upright_intrinsics
from spaceclip_plugin.depth.camera import Intrinsics

every_orientation = pytest.mark.parametrize("orientation", ORIENTATIONS)

RAYS = {
    1: lambda x, y: (x, y),
    2: lambda x, y: (-x, y),
    3: lambda x, y: (-x, -y),
    4: lambda x, y: (x, -y),
    5: lambda x, y: (y, x),
    6: lambda x, y: (-y, x),
    7: lambda x, y: (-y, -x),
    8: lambda x, y: (y, -x),
}


@every_orientation
@pytest.mark.parametrize("shape", [(3, 5), (4, 4), (3, 5, 3)])
def test_pixels_are_turned_as_pillow_turns_them(orientation: int, shape: tuple[int, ...]) -> None:
    pixels = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    kept = stored(pixels, orientation)
    np.testing.assert_array_equal(upright(kept, orientation), pixels)
    np.testing.assert_array_equal(as_stored(pixels, orientation), kept)
    assert upright_hw(kept.shape[:2], orientation) == pixels.shape[:2]


@every_orientation
@pytest.mark.parametrize("hw", [(3, 5), (4, 4)])
def test_rays_are_turned_with_their_pixels(orientation: int, hw: tuple[int, int]) -> None:
    camera = Intrinsics(3.0, 4.0, 1.75, 1.125, hw)
    turned = upright_intrinsics(camera, orientation)
    x, y = (np.broadcast_to(axis, hw) for axis in rays(camera))
    expected = RAYS[orientation](upright(x, orientation), upright(y, orientation))
    assert turned.image_hw == upright(x, orientation).shape
    for axis, want in zip(rays(turned), expected, strict=True):
        np.testing.assert_allclose(np.broadcast_to(axis, turned.image_hw), want, rtol=0, atol=1e-15)


def rays(camera: Intrinsics) -> tuple[np.ndarray, np.ndarray]:
    height, width = camera.image_hw
    x = (np.arange(width) + 0.5 - camera.cx_px) / camera.fx_px
    y = (np.arange(height) + 0.5 - camera.cy_px) / camera.fy_px
    return x[None, :], y[:, None]


@pytest.mark.parametrize(("value", "said"), [(1, 1), (8, 8), (0, None), (9, None), (None, None), ("6", None)])
def test_only_tags_from_1_to_8_say_something(value: object, said: int | None) -> None:
    assert orientation_tag(value) == said
