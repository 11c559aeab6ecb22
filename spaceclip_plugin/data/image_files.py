"""Photos and depth maps from disk (16-bit PNG, or metres as NumPy or TIFF), or a DataError that names the file."""

from __future__ import annotations

import math
import struct
import tokenize
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

# Besides OSError, what Pillow and NumPy let through when the bytes of a file are changed at random.
_MALFORMED = (SyntaxError, ValueError, TypeError, RuntimeError, EOFError, struct.error, zlib.error)
_MALFORMED_ARRAY = (*_MALFORMED, LookupError, ArithmeticError, MemoryError, tokenize.TokenError)

PHOTO_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm"})
METRE_SUFFIXES = frozenset({".npy", ".tif", ".tiff"})
"""Files of depth in metres, whatever `units_per_metre` says."""
DEPTH_SUFFIXES = METRE_SUFFIXES | {".png"}

_STRETCH = 257
"""Factor from 8-bit values to 16-bit ones with the same white: 65535 / 255."""
_STRETCHED_VALUES = 3
"""Different values that must all be multiples of it before that is no chance any more."""


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


def read_depth(path: str | PathLike[str], *, units_per_metre: float) -> npt.NDArray[np.float32]:
    """(H, W) float32 metres of a depth map, whatever its format; 0 where unknown.

    Args:
        path: a 16-bit greyscale `.png`; or `.npy` (floating point) or `.tiff` (float32), in metres.
        units_per_metre: of a PNG, see `read_depth_png`; of no meaning for the others.

    Raises:
        ConfigError: `units_per_metre` is not finite and positive.
        DataError: the file is missing, damaged, larger than 64 megapixels or of another kind. Names the file.
    """
    check_units(units_per_metre)
    suffix = Path(path).suffix.lower()
    if suffix not in METRE_SUFFIXES:
        return read_depth_png(path, units_per_metre=units_per_metre)
    return _known_metres(_npy(Path(path)) if suffix == ".npy" else _float_tiff(Path(path)))


def read_depth_png(path: str | PathLike[str], *, units_per_metre: float) -> npt.NDArray[np.float32]:
    """(H, W) float32 metres of a 16-bit greyscale PNG; 0 stays 0 and means unknown.

    Args:
        path: the file.
        units_per_metre: 1000 for millimetres (NYU, ROS), 256 for KITTI.

    Raises:
        ConfigError: `units_per_metre` is not finite and positive.
        DataError: the file is missing, truncated, larger than 64 megapixels or not a 16-bit greyscale PNG: an 8-bit
            depth image has lost its metres, and so has one stretched to 16 bits. Names the file.
    """
    check_units(units_per_metre)
    expected = "a 16-bit greyscale PNG of depth"
    with _opened(path, expected) as image:
        # Pillow has called 16-bit greyscale "I" in older versions and "I;16" in newer ones; no other PNG is either.
        if image.format != "PNG" or image.mode not in ("I", "I;16"):
            raise DataError(
                f"{path}: expected {expected}, got {image.format} of mode {image.mode!r}; "
                "export the depth again as uint16, or check the order of the columns in the list"
            )
        values = np.asarray(image)
        if _is_stretched(values):
            raise DataError(
                f"{path}: expected {expected}, but all values are multiples of {_STRETCH}: this was an 8-bit image "
                "and has lost its metres; export the depth again as uint16, without scaling it to the full range"
            )
        depth_m: npt.NDArray[np.float32] = values.astype(np.float32) / np.float32(units_per_metre)
        return depth_m


def check_units(units_per_metre: float) -> None:
    """Raise ConfigError if `units_per_metre` is not finite and positive."""
    if not (math.isfinite(units_per_metre) and units_per_metre > 0):
        raise ConfigError(f"units_per_metre must be finite and positive (1000 NYU, 256 KITTI), got {units_per_metre}")


def _is_stretched(values: npt.NDArray[np.integer]) -> bool:
    """Whether 16-bit values are 8-bit ones times 257, as image tools fill the range; a few equal ones prove nothing."""
    if (values % _STRETCH).any():
        return False
    return len(np.unique(values[values > 0])) >= _STRETCHED_VALUES


def _npy(path: Path) -> npt.NDArray[np.floating]:
    expected = "a NumPy array (H, W) of metres in floating point"
    _must_exist(path, expected)
    try:
        # Mapped: only the header is read before the size is known, and a pickle, which may run code, cannot be.
        stored = np.lib.format.open_memmap(path, mode="r")
        if stored.ndim != 2 or stored.dtype.kind != "f":
            raise DataError(
                f"{path}: expected {expected}, got shape {stored.shape} of {stored.dtype}; save metres as float32"
            )
        if stored.size > _MAX_PIXELS:
            raise DataError(f"{path}: refused, more than {_MAX_PIXELS} pixels {stored.shape}; make it smaller first")
        return np.array(stored)
    except DataError:
        raise
    except (OSError, *_MALFORMED_ARRAY) as error:
        raise DataError(
            f"{path}: expected {expected}, but it cannot be read ({error}); copy or save the file again"
        ) from error


def _float_tiff(path: Path) -> npt.NDArray[np.floating]:
    expected = "a TIFF of float32 metres"
    with _opened(path, expected) as image:
        if image.format != "TIFF" or image.mode != "F":
            raise DataError(
                f"{path}: expected {expected}, got {image.format} of mode {image.mode!r}; "
                "save metres as float32, or integer depth as 16-bit PNG"
            )
        return np.array(image)


def _known_metres(depth: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
    """Float32, with 0 where a value is not finite or not positive."""
    with np.errstate(over="ignore", invalid="ignore"):
        depth_m = depth.astype(np.float32)
        known = np.isfinite(depth_m) & (depth_m > 0)
    return np.where(known, depth_m, np.float32(0))


def _must_exist(path: str | PathLike[str], expected: str) -> None:
    if not Path(path).is_file():
        raise DataError(f"{path}: no such file, expected {expected}; check the path and the folder it is relative to")


@contextmanager
def _opened(path: str | PathLike[str], expected: str) -> Iterator[Image.Image]:
    """The decoded image of a file, whatever can go wrong turned into a DataError."""
    _must_exist(path, expected)
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
