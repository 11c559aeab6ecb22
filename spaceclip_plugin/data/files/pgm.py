"""Depth as 16-bit PGM (binary, "P5", big-endian). Pillow stretches such values to 65535; here they stay as they are."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import numpy.typing as npt

from spaceclip_plugin.data.files.faults import next_step
from spaceclip_plugin.data.files.opened_image import MAX_PIXELS, must_exist
from spaceclip_plugin.errors import DataError

_EXPECTED = "a 16-bit binary PGM of depth"
_GAP = rb"(?:\s|#[^\n]*\n)+"
_HEADER = re.compile(rb"P5" + _GAP + rb"([0-9]{1,6})" + _GAP + rb"([0-9]{1,6})" + _GAP + rb"([0-9]{1,6})\s")
_LONGEST_HEADER = 4096


def read_pgm(path: Path) -> tuple[npt.NDArray[np.uint16], int]:
    """(H, W) uint16 values, and the largest that the file can hold.

    Raises:
        DataError: the file is missing, cut, larger than 64 megapixels or of another kind. Names the file.
    """
    must_exist(path, _EXPECTED)
    try:
        with path.open("rb") as file:
            head = file.read(_LONGEST_HEADER)
            header = _HEADER.match(head)
            width, height, largest = (0, 0, 0) if header is None else (int(number) for number in header.groups())
            if header is None or not (width and height and 255 < largest <= 65535):
                found = f"a PGM whose largest value is {largest}" if header is not None else "another file"
                advice = next_step(path) if header is None else "export the depth again as uint16, in 16 bits"
                raise DataError(f"{path}: expected {_EXPECTED}, got {found}; {advice}")
            if width * height > MAX_PIXELS:
                raise DataError(f"{path}: refused, more than {MAX_PIXELS} pixels ({width}x{height}); make it smaller")
            file.seek(header.end())
            body = file.read(2 * width * height)
    except OSError as error:
        raise DataError(f"{path}: expected {_EXPECTED}, but it cannot be read ({error})") from error
    if len(body) < 2 * width * height:
        raise DataError(
            f"{path}: expected {_EXPECTED} of {width}x{height} pixels, but it is cut short; copy the file again"
        )
    return np.frombuffer(body, dtype=">u2").reshape(height, width).astype(np.uint16), largest
