"""Which way up pixels are stored (EXIF orientation 1 to 8), and turning them, and their camera, upright."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from spaceclip_plugin.depth import Intrinsics

TAG = 0x0112  # of TIFF 6.0 and EXIF
UPRIGHT = 1
_INVERSE = {6: 8, 8: 6}
_STEPS = {
    1: (False, False, False),
    2: (False, False, True),
    3: (False, True, True),
    4: (False, True, False),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}
"""What makes stored pixels upright: whether they are transposed, then turned upside down, then left to right."""


def orientation_tag(value: object) -> int | None:
    """The orientation that a tag says; None where it is absent or says none (0 is what some cameras write)."""
    return int(value) if isinstance(value, int) and 1 <= value <= 8 else None


def upright_hw(hw: tuple[int, int], orientation: int) -> tuple[int, int]:
    """(H, W) of the upright pixels, of those that are stored as `hw`; the inverse of itself."""
    return (hw[1], hw[0]) if _STEPS[orientation][0] else hw


def upright(array: npt.NDArray[Any], orientation: int) -> npt.NDArray[Any]:
    """Stored pixels (H, W) or (H, W, C), turned upright."""
    transposed, up, left = _STEPS[orientation]
    turned = array.swapaxes(0, 1) if transposed else array
    return np.ascontiguousarray(turned[:: -1 if up else 1, :: -1 if left else 1])


def as_stored(array: npt.NDArray[Any], orientation: int) -> npt.NDArray[Any]:
    """Upright pixels as a file of that orientation stores them: the inverse of `upright`."""
    return upright(array, _INVERSE.get(orientation, orientation))


def upright_intrinsics(stored: Intrinsics, orientation: int) -> Intrinsics:
    """The camera of the upright pixels, principal points in the corner convention.

    A point (x, y, z) of the stored pixels' camera frame is at (-y, x, z) in the upright one's for orientation 6.
    """
    transposed, up, left = _STEPS[orientation]
    height, width = upright_hw(stored.image_hw, orientation)
    fx_px, fy_px, cx_px, cy_px = stored.fx_px, stored.fy_px, stored.cx_px, stored.cy_px
    if transposed:
        fx_px, fy_px, cx_px, cy_px = fy_px, fx_px, cy_px, cx_px
    return Intrinsics(fx_px, fy_px, width - cx_px if left else cx_px, height - cy_px if up else cy_px, (height, width))
