"""TIFFs of 64- or 16-bit floating point, which Pillow does not read: one channel in strips, plain or deflated.

Pillow's reader of TIFF tags finds the strips; what they hold is NumPy's. Other compressions, tiles and predictors are
told apart and named, not guessed.
"""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from spaceclip_plugin.data.files.opened_image import MALFORMED, MAX_PIXELS
from spaceclip_plugin.data.files.orientation import TAG, orientation_tag
from spaceclip_plugin.errors import DataError

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _OFFSETS, _SAMPLES, _COUNTS = 256, 257, 258, 259, 273, 277, 279
_PREDICTOR, _FORMAT = 317, 339
_FLOAT = 3
_PLAIN, _DEFLATED = (1,), (8, 32946)
_BYTE_ORDERS = {b"II*\0": "<", b"MM\0*": ">"}


def read_float_tiff(path: Path) -> tuple[npt.NDArray[np.floating], int | None] | None:
    """(H, W) values as stored, and the orientation that the file says.

    Returns:
        None where the file is no TIFF of 64- or 16-bit floating point: whatever else it is, others know better.

    Raises:
        DataError: it is one that is cut, larger than 64 megapixels, or kept in a way that is not read. Names the file.
    """
    try:
        with path.open("rb") as file:
            header = file.read(8)
            order = _BYTE_ORDERS.get(header[:4])
            if order is None:
                return None
            tags = ImageFileDirectory_v2(header)
            file.seek(tags.next)
            tags.load(file)
            bits = _numbers(tags, _BITS, 1)
            if _numbers(tags, _FORMAT, 1) != (_FLOAT,) or bits not in ((64,), (16,)):
                return None
            strips, counts = [], _numbers(tags, _COUNTS)
            if sum(counts) > path.stat().st_size:  # the same bytes many times over
                raise DataError(f"{path}: its strips are longer than the file; copy or save the file again")
            for offset, count in zip(_numbers(tags, _OFFSETS), counts, strict=True):
                file.seek(offset)
                strips.append(file.read(count))
        values = _values(path, tags, strips, np.dtype(f"{order}f{bits[0] // 8}"))
    except DataError:
        raise
    except (OSError, LookupError, OverflowError, MemoryError, *MALFORMED):
        return None
    return values, orientation_tag(tags.get(TAG))


def _values(
    path: Path, tags: ImageFileDirectory_v2, strips: list[bytes], dtype: np.dtype[np.floating]
) -> npt.NDArray[np.floating]:
    (width,), (height,) = _numbers(tags, _WIDTH), _numbers(tags, _HEIGHT)
    if width * height > MAX_PIXELS:
        raise DataError(f"{path}: refused, more than {MAX_PIXELS} pixels ({width}x{height}); make it smaller first")
    compression = _numbers(tags, _COMPRESSION, 1)
    known = compression == _PLAIN or compression[0] in _DEFLATED
    if not (strips and known and _numbers(tags, _SAMPLES, 1) == (1,) and _numbers(tags, _PREDICTOR, 1) == (1,)):
        raise DataError(
            f"{path}: a TIFF of {8 * dtype.itemsize}-bit floating point is read in strips of one channel, plain or "
            "deflated without a predictor; save it so, or as float32, or as .npy"
        )
    size = width * height * dtype.itemsize
    content = b"".join(strips)
    if compression != _PLAIN:
        content = b"".join(zlib.decompressobj().decompress(strip, size + 1) for strip in strips)
    if len(content) != size:
        raise DataError(
            f"{path}: expected {size} bytes of {width}x{height} pixels, got {len(content)}; copy or save the file again"
        )
    return np.frombuffer(content, dtype=dtype).reshape(height, width)


def _numbers(tags: ImageFileDirectory_v2, tag: int, default: int | None = None) -> tuple[int, ...]:
    """The numbers of a tag, of which Pillow unpacks a single one."""
    value = tags.get(tag, () if default is None else default)
    return tuple(int(number) for number in value) if isinstance(value, tuple) else (int(value),)
