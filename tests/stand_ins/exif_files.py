"""Photos and depth maps as a camera stores them that was held any way up, made with Pillow's own transpositions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, TiffImagePlugin

ORIENTATIONS = range(1, 9)
TAG = 0x0112
_HOW = Image.Transpose
_STORES = {
    2: _HOW.FLIP_LEFT_RIGHT,
    3: _HOW.ROTATE_180,
    4: _HOW.FLIP_TOP_BOTTOM,
    5: _HOW.TRANSPOSE,
    6: _HOW.ROTATE_90,
    7: _HOW.TRANSVERSE,
    8: _HOW.ROTATE_270,
}
"""What Pillow does to upright pixels so that a file of that orientation shows them."""


def stored(upright: np.ndarray, orientation: int) -> np.ndarray:
    """The pixels that a file of that orientation keeps."""
    if orientation == 1:
        return upright
    if upright.ndim == 3:
        return np.stack([stored(upright[..., i], orientation) for i in range(upright.shape[2])], axis=-1)
    return np.array(Image.fromarray(upright).transpose(_STORES[orientation]))


def save(path: Path, array: np.ndarray, tag: int | None) -> None:
    """Write pixels as they are, with an orientation tag or without one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, array)
    elif path.suffix == ".npz":
        np.savez(path, depth=array)
    elif path.suffix == ".pgm":
        path.write_bytes(b"P5\n%d %d\n65535\n" % array.shape[::-1] + array.astype(">u2").tobytes())
    elif path.suffix == ".tiff":
        tags = TiffImagePlugin.ImageFileDirectory_v2()
        if tag is not None:
            tags[TAG] = tag
        Image.fromarray(array).save(path, tiffinfo=tags)
    else:
        exif = Image.Exif()
        if tag is not None:
            exif[TAG] = tag
        options = {".webp": {"lossless": True}, ".jpg": {"quality": 100, "subsampling": 0}}.get(path.suffix, {})
        Image.fromarray(array).save(path, exif=exif, **options)
