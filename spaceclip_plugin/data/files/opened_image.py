"""Image files of all sorts through Pillow, with the orientation they say, or a DataError that names the file.

Pillow itself turns a TIFF upright while it loads the pixels, in every version that can be used here (9.4 to 13 were
tried), and no other format. What is read here is as it is stored, whatever the format, with its tag beside it: so
every file is turned exactly once, by whoever knows what belongs together.
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

from spaceclip_plugin.data.files.faults import missing, next_step
from spaceclip_plugin.data.files.orientation import TAG, as_stored, orientation_tag
from spaceclip_plugin.errors import DataError

MAX_PIXELS = 64 * 1024 * 1024
FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP", "PPM")

# Besides OSError, what Pillow lets through when the bytes of a file are changed at random.
MALFORMED = (SyntaxError, ValueError, TypeError, RuntimeError, EOFError, struct.error, zlib.error)


@dataclass(frozen=True, eq=False)
class OpenedImage:
    """An image whose pixels are loaded.

    Attributes:
        image: Pillow's, with its format and mode; a TIFF is turned upright already.
        orientation: what the file's tag says, 1 to 8; None without a tag.
        turned: what Pillow has turned the pixels by: `orientation` of a TIFF, else 1.
        raw_mode: how the file keeps its pixels, in Pillow's words ("RGB;16B"), or "" where it does not say.
    """

    image: Image.Image
    orientation: int | None
    turned: int
    raw_mode: str

    def pixels(self, mode: str | None = None) -> npt.NDArray[Any]:
        """The pixels as they are stored, in Pillow's `mode` if one is given."""
        image = self.image if mode is None else self.image.convert(mode)
        return as_stored(np.array(image), self.turned)


@contextmanager
def opened(path: str | PathLike[str], expected: str) -> Iterator[OpenedImage]:
    """The decoded image of a file, whatever can go wrong turned into a DataError.

    Args:
        path: the file.
        expected: what it should be, for messages: "a 16-bit greyscale PNG of depth".
    """
    must_exist(path, expected)
    try:
        # By a file, not by its name: Pillow maps a named TIFF of one plain strip into memory with the sides of a turned
        # one exchanged, and so shears its rows.
        with Path(path).open("rb") as file, Image.open(file, formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise Image.DecompressionBombError(f"{image.width}x{image.height} pixels")
            yield _loaded(image)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(f"{path}: refused, more than {MAX_PIXELS} pixels ({error}); make it smaller first") from error
    except DataError:
        raise
    except (OSError, *MALFORMED) as error:
        raise DataError(
            f"{path}: expected {expected}, but it cannot be decoded ({_reason(error)}); {next_step(path)}"
        ) from error


def must_exist(path: str | PathLike[str], expected: str) -> None:
    """Raise DataError, naming the file, if there is none."""
    if not Path(path).is_file():
        raise DataError(f"{path}: no such file, expected {expected}; {missing(path)}")


def _loaded(image: Image.Image) -> OpenedImage:
    raw_mode = _raw_mode(image)
    if image.format != "TIFF":
        image.load()
        return OpenedImage(image, orientation_of(image), 1, raw_mode)  # a PNG may say it after its pixels
    own = orientation_tag(image.tag_v2.get(TAG))  # type: ignore[attr-defined]
    said = own or orientation_of(image)  # XMP may say it, too, and older versions turn by the tag alone
    image.load()
    left = None if own is not None else orientation_of(image)
    return OpenedImage(image, said, 1 if said is None or left is not None else said, raw_mode)


def orientation_of(image: Image.Image) -> int | None:
    """What the file's EXIF or XMP says, 1 to 8; None without a tag, and where the EXIF is damaged (not the pixels)."""
    try:
        return orientation_tag(image.getexif().get(TAG))
    except (OSError, LookupError, *MALFORMED):
        return None


def _raw_mode(image: Image.Image) -> str:
    """From the description of the first tile, which Pillow drops when it loads the pixels."""
    tiles = getattr(image, "tile", None) or [(None, None, None, "")]
    arguments = tiles[0][3]
    first = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return first if isinstance(first, str) else ""


def _reason(error: BaseException) -> str:
    """The message of an error, without the name of the file, which stands before it."""
    return "no format that is read here" if isinstance(error, UnidentifiedImageError) else str(error)
