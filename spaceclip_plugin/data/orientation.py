"""Which way up pixels are stored (EXIF orientation 1 to 8), and turning them, and their camera, upright.

The orientations are those of the TIFF 6.0 and EXIF tag 0x0112: 1 is upright; 2 mirrored; 3 turned by 180 degrees; 4
mirrored top to bottom; 5 transposed; 6 needs a quarter turn clockwise; 7 mirrored along the other diagonal; 8 needs a
quarter turn counter-clockwise.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from spaceclip_plugin.camera import Intrinsics

TAG = 0x0112
UPRIGHT = 1
_INVERSE = {6: 8, 8: 6}


def orientation_tag(value: object) -> int | None:
    """The orientation that a tag says; None where it is absent or says none (0 is what some cameras write)."""
    return int(value) if isinstance(value, int) and 1 <= value <= 8 else None


def upright_hw(hw: tuple[int, int], orientation: int) -> tuple[int, int]:
    """(H, W) of the upright pixels, of those that are stored as `hw`; the inverse of itself."""
    return (hw[1], hw[0]) if orientation >= 5 else hw


def upright(array: npt.NDArray[Any], orientation: int) -> npt.NDArray[Any]:
    """Stored pixels (H, W) or (H, W, C), turned upright."""
    turned = {
        1: lambda: array,
        2: lambda: array[:, ::-1],
        3: lambda: array[::-1, ::-1],
        4: lambda: array[::-1],
        5: lambda: array.swapaxes(0, 1),
        6: lambda: np.rot90(array, -1),
        7: lambda: array.swapaxes(0, 1)[::-1, ::-1],
        8: lambda: np.rot90(array, 1),
    }[orientation]()
    return np.ascontiguousarray(turned)


def as_stored(array: npt.NDArray[Any], orientation: int) -> npt.NDArray[Any]:
    """Upright pixels as a file of that orientation stores them: the inverse of `upright`."""
    return upright(array, _INVERSE.get(orientation, orientation))


def upright_intrinsics(stored: Intrinsics, orientation: int) -> Intrinsics:
    """The camera of the upright pixels.

    A point (x, y, z) of the stored pixels' camera frame is, in the upright one's, at (-x, y, z) for orientation 2,
    (-x, -y, z) for 3, (x, -y, z) for 4, (y, x, z) for 5, (-y, x, z) for 6, (-y, -x, z) for 7 and (y, -x, z) for 8.

    Args:
        stored: of the pixels as stored; the principal point in the corner convention (`camera.py`).
        orientation: 1 to 8.
    """
    height, width = stored.image_hw
    x, y = stored.cx_px, stored.cy_px
    left, up = width - x, height - y
    cx_px, cy_px = {
        1: (x, y),
        2: (left, y),
        3: (left, up),
        4: (x, up),
        5: (y, x),
        6: (up, x),
        7: (up, left),
        8: (y, left),
    }[orientation]
    fx_px, fy_px = (stored.fy_px, stored.fx_px) if orientation >= 5 else (stored.fx_px, stored.fy_px)
    return Intrinsics(fx_px, fy_px, cx_px, cy_px, upright_hw(stored.image_hw, orientation))
