"""The eight EXIF orientations, against what Pillow does to the pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from spaceclip_plugin.camera import Intrinsics, back_project
from spaceclip_plugin.errors import ConfigError
from spaceclip_plugin.orientation import upright_camera, upright_size

STORED_HW = (4, 8)
STORED = Intrinsics(fx_px=8.0, fy_px=4.0, cx_px=3.5, cy_px=1.25, image_hw=STORED_HW)


def upright_numbers(orientation: int) -> np.ndarray:
    """The stored pixels' numbers, row by row, where Pillow puts them."""
    image = Image.fromarray(np.arange(32, dtype=np.uint8).reshape(STORED_HW))
    image.getexif()[0x0112] = orientation
    turned = ImageOps.exif_transpose(image)
    return np.array(turned)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_pixel_keeps_its_ray(orientation: int) -> None:
    numbers = upright_numbers(orientation)
    assert numbers.shape == upright_size(STORED_HW, orientation)
    camera = upright_camera(STORED, orientation)
    assert camera.image_hw == numbers.shape
    stored_rays = back_project(torch.ones(1, *STORED_HW), STORED)[0].reshape(-1, 3)[torch.from_numpy(numbers).long()]
    found = back_project(torch.ones(1, *numbers.shape), camera)[0]
    # A step right in the stored image is one in some direction of the upright one; rays are turned as the steps are.
    places = {int(number): np.array([column, row]) for (row, column), number in np.ndenumerate(numbers)}
    turn = torch.from_numpy(np.stack([places[1] - places[0], places[8] - places[0]], axis=1)).float()
    assert torch.equal(found[..., :2], stored_rays[..., :2] @ turn.T)
    assert torch.equal(found[..., 2], stored_rays[..., 2])


@pytest.mark.parametrize(
    ("orientation", "expected"),
    [
        (1, (8.0, 4.0, 3.5, 1.25, (4, 8))),
        (2, (8.0, 4.0, 4.5, 1.25, (4, 8))),
        (3, (8.0, 4.0, 4.5, 2.75, (4, 8))),
        (4, (8.0, 4.0, 3.5, 2.75, (4, 8))),
        (5, (4.0, 8.0, 1.25, 3.5, (8, 4))),
        (6, (4.0, 8.0, 2.75, 3.5, (8, 4))),
        (7, (4.0, 8.0, 2.75, 4.5, (8, 4))),
        (8, (4.0, 8.0, 1.25, 4.5, (8, 4))),
    ],
)
def test_the_numbers(orientation: int, expected: tuple[float, float, float, float, tuple[int, int]]) -> None:
    assert upright_camera(STORED, orientation) == Intrinsics(*expected)


@pytest.mark.parametrize("orientation", [0, 9, -1])
def test_what_is_no_orientation(orientation: int) -> None:
    with pytest.raises(ConfigError, match=str(orientation)):
        upright_camera(STORED, orientation)
