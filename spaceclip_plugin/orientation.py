"""The eight EXIF orientations: how the image that is stored becomes the upright one, and its camera with it.

A camera that is held upright or upside down stores the rows as its sensor read them and says in a tag how to turn them.
A calibration that was made from stored pixels (COLMAP, most factory files) is of the sensor; one that was made with a
reader that turns images (OpenCV) is of the upright image.
"""

from __future__ import annotations

from spaceclip_plugin.camera import Intrinsics
from spaceclip_plugin.errors import ConfigError

UPRIGHT = 1
"""The orientation of an image that is stored as it is to be seen."""

_STEPS = {
    1: (False, False, False),
    2: (True, False, False),
    3: (True, True, False),
    4: (False, True, False),
    5: (False, False, True),
    6: (False, True, True),
    7: (True, True, True),
    8: (True, False, True),
}
"""What takes the stored image to the upright one: columns reversed, rows reversed, then both exchanged (EXIF 2.32)."""


def upright_size(stored_hw: tuple[int, int], orientation: int) -> tuple[int, int]:
    """(H, W) of the upright image.

    Raises:
        ConfigError: no orientation from 1 to 8.
    """
    height, width = stored_hw
    return (width, height) if _steps(orientation)[2] else (height, width)


def upright_camera(stored: Intrinsics, orientation: int) -> Intrinsics:
    """Intrinsics of the upright image from those of the stored one.

    Every stored pixel keeps its ray, turned with the image; with orientations 2, 4, 5 and 7, mirrored with it.

    Raises:
        ConfigError: no orientation from 1 to 8.
    """
    reverse_columns, reverse_rows, exchange = _steps(orientation)
    height, width = stored.image_hw
    cx_px = width - stored.cx_px if reverse_columns else stored.cx_px
    cy_px = height - stored.cy_px if reverse_rows else stored.cy_px
    if exchange:
        return Intrinsics(stored.fy_px, stored.fx_px, cy_px, cx_px, (width, height))
    return Intrinsics(stored.fx_px, stored.fy_px, cx_px, cy_px, (height, width))


def _steps(orientation: int) -> tuple[bool, bool, bool]:
    if orientation not in _STEPS:
        raise ConfigError(f"an EXIF orientation is a number from 1 to 8, got {orientation!r}")
    return _STEPS[orientation]
