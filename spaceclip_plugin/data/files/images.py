"""Image files of all sorts through Pillow, with their pixels as stored and the orientation tag beside them.

So every file is turned upright exactly once, by whoever knows what belongs together.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError
from PIL.TiffImagePlugin import IMAGELENGTH, IMAGEWIDTH, TiffImageFile

from spaceclip_plugin.data.files.orientation import TAG, UPRIGHT, as_stored, orientation_tag, upright, upright_hw
from spaceclip_plugin.data.files.paths import must_exist, next_step
from spaceclip_plugin.errors import DataError

MAX_PIXELS = 64 * 1024 * 1024
FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP", "PPM")
PHOTO_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm"})

# Besides OSError, what Pillow lets through when the bytes of a file are changed at random.
MALFORMED = (SyntaxError, ValueError, TypeError, RuntimeError, LookupError, EOFError, struct.error, zlib.error)

_PHOTO = f"an 8-bit image ({', '.join(FORMATS)})"
_LEFT_ALIGNED = 63
"""Largest value, of 255, that up to 14 bits in 16 reach: 8 bits of such a photo are all but black."""


@dataclass(frozen=True)
class PhotoHeader:
    """What the head of a photo's file tells before its pixels are decoded."""

    stored_hw: tuple[int, int]  # (H, W) pixels as the file has them: those of the sensor
    orientation: int  # EXIF's, from 1 to 8; 1 where the file says nothing that is an orientation

    @property
    def upright_hw(self) -> tuple[int, int]:
        """(H, W) pixels of the photo as it is seen, and as `read_rgb` gives it."""
        return upright_hw(self.stored_hw, self.orientation)


@dataclass(frozen=True, eq=False)
class Photo(PhotoHeader):
    """A photo, upright."""

    image: npt.NDArray[np.uint8]  # (H, W, 3) RGB


@dataclass(frozen=True, eq=False)
class OpenedImage:
    """An image whose pixels are loaded.

    Pillow (9.4 to 13 were tried) turns a TIFF upright while it loads the pixels, and no other format.
    """

    image: Image.Image
    orientation: int | None  # what the file's tag says, 1 to 8; None without a tag
    turned: int  # what Pillow has turned the pixels by: `orientation` of a TIFF, else 1
    raw_mode: str  # how the file keeps its pixels, in Pillow's words ("RGB;16B"), or "" where it does not say

    def pixels(self, mode: str | None = None) -> npt.NDArray[Any]:
        """The pixels as they are stored, in Pillow's `mode` if one is given."""
        return as_stored(np.array(self.image if mode is None else self.image.convert(mode)), self.turned)


def read_rgb(path: str | PathLike[str]) -> npt.NDArray[np.uint8]:
    """(H, W, 3) uint8 RGB of a photo, upright; see `read_photo` for errors."""
    return read_photo(path).image


def read_photo(path: str | PathLike[str]) -> Photo:
    """The photo, and which way up it was stored.

    DataError, naming the file, where that is missing, truncated, too large, no image, or of more than 8 bits a channel.
    """
    with opened(path, _PHOTO) as found:
        mode = found.image.mode
        if mode in ("F", "I") or mode.startswith("I;"):
            raise DataError(f"{path}: expected {_PHOTO}, got mode {mode!r}; {_grey_advice(found.image)}")
        orientation = found.orientation or UPRIGHT
        stored = found.pixels("RGB")
        if ";16" in found.raw_mode and stored.max() <= _LEFT_ALIGNED:
            raise DataError(
                f"{path}: expected {_PHOTO}, got 16 bits a channel of which the upper two or more are never used: "
                "kept in 8 bits the photo would be black; scale it to its own range and save it in 8 bits"
            )
        return Photo((stored.shape[0], stored.shape[1]), orientation, upright(stored, orientation))


def read_header(path: str | PathLike[str]) -> PhotoHeader:
    """Size and orientation of a photo, without its pixels; DataError, naming the file, where it is no image."""
    with _image_of(path, _PHOTO) as image:
        width, height = image.size
        tag = _orientation_of(image)
        if isinstance(image, TiffImageFile):  # newer pillows tell the size that it will have once it is turned
            width, height = int(image.tag_v2[IMAGEWIDTH]), int(image.tag_v2[IMAGELENGTH])
            tag = orientation_tag(image.tag_v2.get(TAG)) or tag
        return PhotoHeader((height, width), tag or UPRIGHT)


@contextmanager
def opened(path: str | PathLike[str], expected: str) -> Iterator[OpenedImage]:
    """The decoded image of a file, whatever can go wrong turned into a DataError that says what was `expected`."""
    with _image_of(path, expected) as image:
        if image.width * image.height > MAX_PIXELS:
            raise Image.DecompressionBombError(f"{image.width}x{image.height} pixels")
        tile = (getattr(image, "tile", None) or [(None, None, None, "")])[0]  # dropped once the pixels are loaded
        raw_mode = tile[3][0] if isinstance(tile[3], tuple) and tile[3] else tile[3]
        raw_mode = raw_mode if isinstance(raw_mode, str) else ""
        if not isinstance(image, TiffImageFile):
            image.load()  # a PNG may say its orientation after its pixels
            yield OpenedImage(image, _orientation_of(image), UPRIGHT, raw_mode)
            return
        own = orientation_tag(image.tag_v2.get(TAG))
        said = own or _orientation_of(image)  # XMP may say it, too, and older versions turn by the tag alone
        image.load()
        left = None if own is not None else _orientation_of(image)
        yield OpenedImage(image, said, UPRIGHT if said is None or left is not None else said, raw_mode)


@contextmanager
def _image_of(path: str | PathLike[str], expected: str) -> Iterator[Image.Image]:
    """Pillow's image of a file, its pixels not loaded."""
    path = Path(path)
    must_exist(path, expected)
    try:
        # By a file, not by its name: Pillow maps a named TIFF of one plain strip into memory with the sides of a turned
        # one exchanged, and so shears its rows.
        with path.open("rb") as file, Image.open(file, formats=FORMATS) as image:
            yield image
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(f"{path}: refused, more than {MAX_PIXELS} pixels ({error}); make it smaller first") from error
    except DataError:
        raise
    except (OSError, *MALFORMED) as error:
        why = "no format that is read here" if isinstance(error, UnidentifiedImageError) else str(error)
        raise DataError(f"{path}: expected {expected}, but it cannot be decoded ({why}); {next_step(path)}") from error


def _orientation_of(image: Image.Image) -> int | None:
    """What the file's EXIF or XMP says, 1 to 8; None without a tag, and where the EXIF is damaged (not the pixels)."""
    try:
        return orientation_tag(image.getexif().get(TAG))
    except (OSError, *MALFORMED):
        return None


def _grey_advice(image: Image.Image) -> str:
    """What to do with greyscale of more than 8 bits: a photo of 12 bits and a depth map in millimetres look alike."""
    if image.mode == "F":
        return "are image and depth swapped in the list?"
    largest = int(np.asarray(image).max())
    bits = max(8, largest.bit_length())
    return (
        f"are image and depth swapped in the list? If it is a grey photo of {bits} bits (its largest value is "
        f"{largest}), save it in 8 bits first: values >> {bits - 8}, as uint8"
    )
