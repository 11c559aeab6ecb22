"""Photos and depth maps from disk (16-bit PNG or PGM, or metres as NumPy or TIFF), or a DataError that names the file.

Which way up: a file with an orientation tag of its own is turned by it (tag 1: not at all). A depth map without a tag
is registered to its photo's stored pixels and is turned as the photo is: that is `DepthPair`'s, which knows the photo.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import numpy as np
import numpy.typing as npt

from spaceclip_plugin.data.files.depth_values import SATURATED_16, StoredDepth
from spaceclip_plugin.data.files.faults import missing
from spaceclip_plugin.data.files.float_tiff import read_float_tiff
from spaceclip_plugin.data.files.metre_arrays import read_npy, read_npz
from spaceclip_plugin.data.files.opened_image import FORMATS, OpenedImage, opened
from spaceclip_plugin.data.files.orientation import UPRIGHT, upright, upright_hw
from spaceclip_plugin.data.files.pgm import read_pgm
from spaceclip_plugin.errors import ConfigError, DataError

PHOTO_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm"})
METRE_SUFFIXES = frozenset({".npy", ".npz", ".tif", ".tiff"})
"""Files of depth in metres, whatever `units_per_metre` says."""
DEPTH_SUFFIXES = METRE_SUFFIXES | {".png", ".pgm"}

DEPTH_FORMATS = (
    "depth is read from 16-bit greyscale .png or .pgm, in a unit that can be given, and in metres from .npy and .npz "
    "(one floating-point array of (H, W)) and .tif/.tiff (floating point)"
)
"""For messages."""

_SAVE_ARRAY = "convert it to metres as .npy: numpy.save('depth.npy', depth_m.astype('float32'))"
_NOT_READ = {
    ".exr": "OpenEXR",
    ".pfm": "PFM (its rows lie bottom to top, and its unknown depth is infinite)",
    ".h5": "HDF5",
    ".hdf5": "HDF5",
    ".mat": "MATLAB",
    ".dpt": "Sintel's depth",
    ".raw": "a raw dump",
    ".bin": "a raw dump",
}
_STRETCH = 257
"""Factor from 8-bit values to 16-bit ones with the same white: 65535 / 255."""
_STRETCHED_VALUES = 3
"""Different values that must all be multiples of it before that is no chance any more."""
_LEFT_ALIGNED = 63
"""Largest value, of 255, that up to 14 bits in 16 reach: 8 bits of such a photo are all but black."""


@dataclass(frozen=True, eq=False)
class Photo:
    """A photo, upright.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        orientation: which way up its file stores it, 1 to 8.
    """

    image: npt.NDArray[np.uint8]
    orientation: int

    @property
    def hw(self) -> tuple[int, int]:
        """Size, upright."""
        return int(self.image.shape[0]), int(self.image.shape[1])

    @property
    def stored_hw(self) -> tuple[int, int]:
        """Size as the file stores it."""
        return upright_hw(self.hw, self.orientation)


def read_rgb(path: str | PathLike[str]) -> npt.NDArray[np.uint8]:
    """(H, W, 3) uint8 RGB of a photo, upright: an EXIF rotation is applied, once, whatever the format.

    Raises:
        DataError: the file is missing, truncated, not an image, larger than 64 megapixels, or has more than 8 bits a
            channel (a depth map, perhaps). Names the file.
    """
    return read_photo(path).image


def read_photo(path: str | PathLike[str]) -> Photo:
    """The photo, and which way up it was stored; see `read_rgb`."""
    expected = f"an 8-bit image ({', '.join(FORMATS)})"
    with opened(path, expected) as found:
        mode = found.image.mode
        if mode in ("F", "I") or mode.startswith("I;"):
            raise DataError(f"{path}: expected {expected}, got mode {mode!r}; {_grey_advice(found)}")
        orientation = found.orientation or UPRIGHT
        image = upright(found.pixels("RGB"), orientation)
        if ";16" in found.raw_mode and image.max() <= _LEFT_ALIGNED:
            raise DataError(
                f"{path}: expected {expected}, got 16 bits a channel of which the upper two or more are never used: "
                "kept in 8 bits the photo would be black; scale it to its own range and save it in 8 bits"
            )
        return Photo(image, orientation)


def read_depth(path: str | PathLike[str], *, units_per_metre: float) -> npt.NDArray[np.float32]:
    """(H, W) float32 metres of a depth map, whatever its format; 0 where unknown, see `depth_values`.

    It is turned by the orientation tag of its own file, if there is one. Without a tag it is as stored: to be turned
    as its photo is, if that has a tag (`DepthPair` does so).

    Args:
        path: a 16-bit greyscale `.png` or `.pgm`; or `.npy`, `.npz` or `.tiff`, floating-point metres.
        units_per_metre: of PNG and PGM, see `read_depth_png`; of no meaning for the others.

    Raises:
        ConfigError: `units_per_metre` is not finite and positive.
        DataError: the file is missing, damaged, larger than 64 megapixels or of another kind. Names the file.
    """
    check_units(units_per_metre)
    stored = read_stored_depth(path)
    return upright(stored.metres(units_per_metre), stored.orientation or UPRIGHT)


def read_depth_png(path: str | PathLike[str], *, units_per_metre: float) -> npt.NDArray[np.float32]:
    """(H, W) float32 metres of a 16-bit greyscale PNG; 0 and the saturated 65535 mean unknown, and are 0.

    Args:
        path: the file.
        units_per_metre: 1000 for millimetres (NYU, ROS), 256 for KITTI.

    Raises:
        ConfigError: `units_per_metre` is not finite and positive.
        DataError: the file is missing, truncated, larger than 64 megapixels or not a 16-bit greyscale PNG: an 8-bit
            depth image has lost its metres, and so has one stretched to 16 bits. Names the file.
    """
    check_units(units_per_metre)
    stored = _png(path)
    return upright(stored.metres(units_per_metre), stored.orientation or UPRIGHT)


def read_stored_depth(path: str | PathLike[str]) -> StoredDepth:
    """A depth map as its file holds it, neither turned nor brought into metres; see `read_depth` for errors."""
    file = Path(path)
    suffix = file.suffix.lower()
    if suffix in (".npy", ".npz"):
        return StoredDepth(read_npy(file) if suffix == ".npy" else read_npz(file))
    if suffix in METRE_SUFFIXES:
        return _float_tiff(file)
    if suffix == ".pgm":
        values, largest = read_pgm(file)
        full = largest & (largest + 1) == 0  # 4095, not the largest value that happens to occur
        return StoredDepth(values, saturated=largest if full else SATURATED_16)
    if suffix in _NOT_READ:
        why = _NOT_READ[suffix] if file.is_file() else f"no such file; {missing(file)}, and {_NOT_READ[suffix]}"
        raise DataError(f"{path}: {why} is not read; {DEPTH_FORMATS}; {_SAVE_ARRAY}")
    return _png(path)


def check_units(units_per_metre: float) -> None:
    """Raise ConfigError if `units_per_metre` is not finite and positive."""
    if not (math.isfinite(units_per_metre) and units_per_metre > 0):
        raise ConfigError(f"units_per_metre must be finite and positive (1000 NYU, 256 KITTI), got {units_per_metre}")


def _png(path: str | PathLike[str]) -> StoredDepth:
    expected = "a 16-bit greyscale PNG of depth"
    with opened(path, expected) as found:
        # Pillow has called 16-bit greyscale "I" in older versions and "I;16" in newer ones; no other PNG is either.
        if found.image.format != "PNG" or found.image.mode not in ("I", "I;16"):
            raise DataError(
                f"{path}: expected {expected}, got {found.image.format} of mode {found.image.mode!r}; "
                f"export the depth again as uint16, or check the order of the columns in the list ({DEPTH_FORMATS})"
            )
        values = found.pixels().astype(np.uint16)
        if _is_stretched(values):
            raise DataError(
                f"{path}: expected {expected}, but all values are multiples of {_STRETCH}: this was an 8-bit image "
                "and has lost its metres; export the depth again as uint16, without scaling it to the full range"
            )
        return StoredDepth(values, found.orientation, SATURATED_16)


def _is_stretched(values: npt.NDArray[np.integer]) -> bool:
    """Whether 16-bit values are 8-bit ones times 257, as image tools fill the range; a few equal ones prove nothing."""
    if (values % _STRETCH).any():
        return False
    return len(np.unique(values[values > 0])) >= _STRETCHED_VALUES


def _float_tiff(path: Path) -> StoredDepth:
    expected = "a TIFF of float32 metres"
    wide = read_float_tiff(path)
    if wide is not None:
        return StoredDepth(*wide)
    with opened(path, expected) as found:
        if found.image.format != "TIFF" or found.image.mode != "F":
            raise DataError(
                f"{path}: expected {expected}, got {found.image.format} of mode {found.image.mode!r}; "
                f"save metres as float32, or integer depth as 16-bit PNG ({DEPTH_FORMATS})"
            )
        return StoredDepth(found.pixels(), found.orientation)


def _grey_advice(found: OpenedImage) -> str:
    """What to do with greyscale of more than 8 bits: a photo of 12 bits and a depth map in millimetres look alike."""
    if found.image.mode == "F":
        return "are image and depth swapped in the list?"
    largest = int(np.asarray(found.image).max())
    bits = max(8, largest.bit_length())
    return (
        f"are image and depth swapped in the list? If it is a grey photo of {bits} bits (its largest value is "
        f"{largest}), save it in 8 bits first: values >> {bits - 8}, as uint8"
    )
