"""Photos and 16-bit depth PNGs from disk, or a DataError that names the file."""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from spaceclip_plugin.errors import ConfigError, DataError

_MAX_PIXELS = 64 * 1024 * 1024
_FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP", "PPM")

# Besides OSError, what Pillow lets through when the bytes of a file are changed at random.
_MALFORMED = (SyntaxError, ValueError, TypeError, RuntimeError, EOFError, struct.error, zlib.error)


def read_rgb(path: str | PathLike[str]) -> npt.NDArray[np.uint8]:
    """(H, W, 3) uint8 RGB of a photo, upright: an EXIF rotation is applied.

    Raises:
        DataError: the file is missing, truncated, not an image, larger than 64 megapixels, or has more than 8 bits a
            channel (a depth map, perhaps). Names the file.
    """
    expected = f"an 8-bit image ({', '.join(_FORMATS)})"
    with _opened(path, expected) as image:
        if image.mode in ("F", "I") or image.mode.startswith("I;"):
            raise DataError(
                f"{path}: expected {expected}, got mode {image.mode!r}; are image and depth swapped in the list?"
            )
        upright = ImageOps.exif_transpose(image)
        return np.array(upright.convert("RGB"))


def read_depth_png(path: str | PathLike[str], *, units_per_metre: float) -> npt.NDArray[np.float32]:
    """(H, W) float32 metres of a 16-bit greyscale PNG; 0 stays 0 and means unknown.

    Args:
        path: the file.
        units_per_metre: 1000 for millimetres (NYU, ROS), 256 for KITTI.

    Raises:
        ConfigError: `units_per_metre` is not finite and positive.
        DataError: the file is missing, truncated, larger than 64 megapixels or not a 16-bit greyscale PNG: an 8-bit
            depth image has lost its metres. Names the file.
    """
    if not (math.isfinite(units_per_metre) and units_per_metre > 0):
        raise ConfigError(f"units_per_metre must be finite and positive (1000 NYU, 256 KITTI), got {units_per_metre}")
    expected = "a 16-bit greyscale PNG of depth"
    with _opened(path, expected) as image:
        # Pillow has called 16-bit greyscale "I" in older versions and "I;16" in newer ones; no other PNG is either.
        if image.format != "PNG" or image.mode not in ("I", "I;16"):
            raise DataError(
                f"{path}: expected {expected}, got {image.format} of mode {image.mode!r}; "
                "export the depth again as uint16, or check the order of the columns in the list"
            )
        depth_m: npt.NDArray[np.float32] = np.asarray(image).astype(np.float32) / np.float32(units_per_metre)
        return depth_m


@contextmanager
def _opened(path: str | PathLike[str], expected: str) -> Iterator[Image.Image]:
    """The decoded image of a file, whatever can go wrong turned into a DataError."""
    if not Path(path).is_file():
        raise DataError(f"{path}: no such file, expected {expected}; check the path and the folder it is relative to")
    try:
        with Image.open(path, formats=_FORMATS) as image:
            if image.width * image.height > _MAX_PIXELS:
                raise Image.DecompressionBombError(f"{image.width}x{image.height} pixels")
            image.load()
            yield image
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(f"{path}: refused, more than {_MAX_PIXELS} pixels ({error}); make it smaller first") from error
    except DataError:
        raise
    except (OSError, *_MALFORMED) as error:
        raise DataError(
            f"{path}: expected {expected}, but it cannot be decoded ({error}); copy or export the file again"
        ) from error
