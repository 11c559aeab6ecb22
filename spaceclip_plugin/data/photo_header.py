"""What the head of a photo's file tells before its pixels are decoded: how large it is, and how it is to be turned."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from PIL import ExifTags, Image
from PIL.TiffImagePlugin import IMAGELENGTH, IMAGEWIDTH, TiffImageFile

from spaceclip_plugin.errors import DataError
from spaceclip_plugin.orientation import UPRIGHT, upright_size

_FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP", "PPM")
_MALFORMED = (OSError, SyntaxError, ValueError, TypeError, RuntimeError, EOFError, LookupError)
_MALFORMED_PARTS = (struct.error, zlib.error)


@dataclass(frozen=True)
class PhotoHeader:
    """Size and orientation of a photo.

    Attributes:
        stored_hw: (H, W) pixels as the file has them: those of the sensor.
        orientation: EXIF's, from 1 to 8; 1 where the file says nothing that is an orientation.
    """

    stored_hw: tuple[int, int]
    orientation: int

    @property
    def upright_hw(self) -> tuple[int, int]:
        """(H, W) pixels of the photo as it is seen, and as `read_rgb` gives it."""
        return upright_size(self.stored_hw, self.orientation)


def read_header(path: str | PathLike[str]) -> PhotoHeader:
    """Size and orientation of a photo, without its pixels where the format allows.

    Raises:
        DataError: the file is missing or not an image. Names the file.
    """
    if not Path(path).is_file():
        raise DataError(f"no such photo: {path}; check the path")
    try:
        with Image.open(path, formats=_FORMATS) as image:
            width, height = image.size
            if isinstance(image, TiffImageFile):  # newer pillows tell the size that it will have once it is turned
                width, height = int(image.tag_v2[IMAGEWIDTH]), int(image.tag_v2[IMAGELENGTH])
            orientation = image.getexif().get(ExifTags.Base.Orientation, UPRIGHT)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(f"{path}: refused, it has too many pixels ({error}); make it smaller first") from error
    except (*_MALFORMED, *_MALFORMED_PARTS) as error:
        raise DataError(
            f"{path}: expected an 8-bit image ({', '.join(_FORMATS)}), but it cannot be opened ({error}); copy or "
            "export the file again"
        ) from error
    known = isinstance(orientation, int) and 1 <= orientation <= 8
    return PhotoHeader((height, width), int(orientation) if known else UPRIGHT)
