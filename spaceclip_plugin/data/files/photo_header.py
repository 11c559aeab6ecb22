"""What the head of a photo's file tells before its pixels are decoded: how large it is, and which way up."""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike

from PIL import Image
from PIL.TiffImagePlugin import IMAGELENGTH, IMAGEWIDTH, TiffImageFile

from spaceclip_plugin.data.files.faults import next_step
from spaceclip_plugin.data.files.opened_image import FORMATS, MALFORMED, must_exist, orientation_of
from spaceclip_plugin.data.files.orientation import TAG, UPRIGHT, orientation_tag, upright_hw
from spaceclip_plugin.errors import DataError

_EXPECTED = f"an 8-bit image ({', '.join(FORMATS)})"


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
        return upright_hw(self.stored_hw, self.orientation)


def read_header(path: str | PathLike[str]) -> PhotoHeader:
    """Size and orientation of a photo, without its pixels where the format allows.

    Raises:
        DataError: the file is missing or not an image. Names the file.
    """
    must_exist(path, _EXPECTED)
    try:
        with Image.open(path, formats=FORMATS) as image:
            width, height = image.size
            tag = orientation_of(image)
            if isinstance(image, TiffImageFile):  # newer pillows tell the size that it will have once it is turned
                width, height = int(image.tag_v2[IMAGEWIDTH]), int(image.tag_v2[IMAGELENGTH])
                tag = orientation_tag(image.tag_v2.get(TAG)) or tag
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(f"{path}: refused, it has too many pixels ({error}); make it smaller first") from error
    except (OSError, LookupError, *MALFORMED) as error:
        raise DataError(
            f"{path}: expected {_EXPECTED}, but it cannot be opened ({error}); {next_step(path)}"
        ) from error
    return PhotoHeader((height, width), UPRIGHT if tag is None else tag)
