"""Depth maps from disk as their files hold them: 16-bit PNG or PGM in some unit, or metres as NumPy or TIFF."""

from __future__ import annotations

import math
import re
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from spaceclip_plugin.data.files.depth_values import SATURATED_16, StoredDepth
from spaceclip_plugin.data.files.images import MALFORMED, MAX_PIXELS, opened
from spaceclip_plugin.data.files.orientation import TAG, UPRIGHT, orientation_tag, upright
from spaceclip_plugin.data.files.paths import missing, must_exist, next_step
from spaceclip_plugin.errors import ConfigError, DataError

METRE_SUFFIXES = frozenset({".npy", ".npz", ".tif", ".tiff"})
"""Files of depth in metres, whatever `units_per_metre` says."""
DEPTH_SUFFIXES = METRE_SUFFIXES | {".png", ".pgm"}
DEPTH_FORMATS = (
    "depth is read from 16-bit greyscale .png or .pgm, in a unit that can be given, and in metres from .npy and .npz "
    "(one floating-point array of (H, W)) and .tif/.tiff (floating point)"
)
"""For messages."""

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
_PNG, _PGM = "a 16-bit greyscale PNG of depth", "a 16-bit binary PGM of depth"
_ARRAY, _TIFF = "a NumPy array (H, W) of metres in floating point", "a TIFF of float32 metres"
_UNIT_UNKNOWN = (
    "integers do not say their unit: save metres in floating point, (depth / units_per_metre).astype('float32'), or "
    "the integers as uint16 in a 16-bit PNG, whose unit can be given"
)
_STRETCH = 257
"""Factor from 8-bit values to 16-bit ones with the same white: 65535 / 255."""
_STRETCHED_VALUES = 3
"""Different values that must all be multiples of it before that is no chance any more."""
_GAP = rb"(?:\s|#[^\n]*\n)+"
_PGM_HEADER = re.compile(rb"P5" + 3 * (_GAP + rb"([0-9]{1,6})") + rb"\s")
_LONGEST_HEADER = 4096
# What NumPy and zipfile let through, besides, when the bytes of a file are changed at random.
_MALFORMED_ARRAY = (
    *MALFORMED, ArithmeticError, MemoryError, NotImplementedError, tokenize.TokenError, zipfile.BadZipFile,
)  # fmt: skip


def read_depth(path: str | PathLike[str], *, units_per_metre: float) -> npt.NDArray[np.float32]:
    """(H, W) float32 metres of a depth map, 0 where unknown, turned by the orientation tag of its own file alone.

    The unit is that of PNG and PGM. DataError, naming the file, where it is missing, damaged, too large or no depth.
    """
    check_units(units_per_metre)
    stored = read_stored_depth(path)
    return upright(stored.metres(units_per_metre), stored.orientation or UPRIGHT)


def read_stored_depth(path: str | PathLike[str]) -> StoredDepth:
    """A depth map as its file holds it, neither turned nor brought into metres; see `read_depth` for errors."""
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix in (".npy", ".npz"):
        return StoredDepth(_array(path))
    if suffix in METRE_SUFFIXES:
        return _wide_tiff(path) or _float_tiff(path)
    if suffix == ".pgm":
        return _pgm(path)
    if suffix in _NOT_READ:
        why = _NOT_READ[suffix] if path.is_file() else f"no such file; {missing(path)}, and {_NOT_READ[suffix]}"
        raise DataError(
            f"{path}: {why} is not read; {DEPTH_FORMATS}; convert it to metres as .npy: "
            "numpy.save('depth.npy', depth_m.astype('float32'))"
        )
    return _png(path)


def check_units(units_per_metre: float) -> None:
    """Raise ConfigError if `units_per_metre` is not finite and positive."""
    if not (math.isfinite(units_per_metre) and units_per_metre > 0):
        raise ConfigError(f"units_per_metre must be finite and positive (1000 NYU, 256 KITTI), got {units_per_metre}")


def _png(path: Path) -> StoredDepth:
    with opened(path, _PNG) as found:
        # Pillow has called 16-bit greyscale "I" in older versions and "I;16" in newer ones; no other PNG is either.
        if found.image.format != "PNG" or found.image.mode not in ("I", "I;16"):
            raise DataError(
                f"{path}: expected {_PNG}, got {found.image.format} of mode {found.image.mode!r}; "
                f"export the depth again as uint16, or check the order of the columns in the list ({DEPTH_FORMATS})"
            )
        values = found.pixels().astype(np.uint16)
        # 8-bit values times 257, as image tools fill the range; a few equal ones prove nothing.
        if not (values % _STRETCH).any() and len(np.unique(values[values > 0])) >= _STRETCHED_VALUES:
            raise DataError(
                f"{path}: expected {_PNG}, but all values are multiples of {_STRETCH}: this was an 8-bit image "
                "and has lost its metres; export the depth again as uint16, without scaling it to the full range"
            )
        return StoredDepth(values, found.orientation, SATURATED_16)


def _pgm(path: Path) -> StoredDepth:
    """Binary ("P5") and big-endian; Pillow would stretch the values to 65535."""
    must_exist(path, _PGM)
    try:
        with path.open("rb") as file:
            header = _PGM_HEADER.match(file.read(_LONGEST_HEADER))
            width, height, largest = (0, 0, 0) if header is None else (int(number) for number in header.groups())
            if header is None or not (width and height and 255 < largest <= SATURATED_16):
                found = f"a PGM whose largest value is {largest}" if header is not None else "another file"
                advice = next_step(path) if header is None else "export the depth again as uint16, in 16 bits"
                raise DataError(f"{path}: expected {_PGM}, got {found}; {advice}")
            _check_pixels(path, (height, width))
            file.seek(header.end())
            body = file.read(2 * width * height)
    except OSError as error:
        raise DataError(f"{path}: expected {_PGM}, but it cannot be read ({error})") from error
    if len(body) < 2 * width * height:
        raise DataError(f"{path}: expected {_PGM} of {width}x{height} pixels, but it is cut short; copy the file again")
    full = largest & (largest + 1) == 0  # 4095, not the largest value that happens to occur
    values = np.frombuffer(body, dtype=">u2").reshape(height, width).astype(np.uint16)
    return StoredDepth(values, saturated=largest if full else SATURATED_16)


def _array(path: Path) -> npt.NDArray[np.floating]:
    """The array of an .npy, or the only one of an .npz; a last axis of one channel is dropped."""
    must_exist(path, _ARRAY)
    try:
        with _array_file(path) as file:
            # The header first: what it claims decides whether anything is unpacked, and a pickle may run code.
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = read(file)
            if len(shape) not in (2, 3) or (len(shape) == 3 and shape[2] != 1) or dtype.kind != "f":
                advice = _UNIT_UNKNOWN if dtype.kind in "iu" else "save one map of metres as float32"
                raise DataError(f"{path}: expected {_ARRAY}, got shape {shape} of {dtype}; {advice}")
            _check_pixels(path, shape)
            file.seek(0)
            array: npt.NDArray[np.floating] = np.lib.format.read_array(file, allow_pickle=False)
    except DataError:
        raise
    except (OSError, *_MALFORMED_ARRAY) as error:
        raise DataError(f"{path}: expected {_ARRAY}, but it cannot be read ({error}); {next_step(path)}") from error
    return array[:, :, 0] if array.ndim == 3 else array


@contextmanager
def _array_file(path: Path) -> Iterator[IO[bytes]]:
    if path.suffix.lower() == ".npy":
        with path.open("rb") as file:
            yield file
        return
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.endswith(".npy")]
        if len(names) != 1:
            found = ", ".join(name.removesuffix(".npy") for name in names) or "none"
            raise DataError(
                f"{path}: expected one array in the archive, got {len(names)} ({found}); save the depth alone: "
                "np.savez_compressed(path, depth)"
            )
        with archive.open(names[0]) as member:
            yield member


def _float_tiff(path: Path) -> StoredDepth:
    with opened(path, _TIFF) as found:
        if found.image.format != "TIFF" or found.image.mode != "F":
            raise DataError(
                f"{path}: expected {_TIFF}, got {found.image.format} of mode {found.image.mode!r}; "
                f"save metres as float32, or integer depth as 16-bit PNG ({DEPTH_FORMATS})"
            )
        return StoredDepth(found.pixels(), found.orientation)


def _wide_tiff(path: Path) -> StoredDepth | None:
    """A TIFF of 64- or 16-bit floating point, of which Pillow reads the tags alone; None for any other file."""
    try:
        with path.open("rb") as file:
            header = file.read(8)
            order = {b"II*\0": "<", b"MM\0*": ">"}.get(header[:4])
            if order is None:
                return None
            tags = ImageFileDirectory_v2(header)
            file.seek(tags.next)
            tags.load(file)
            (bits,) = _tag(tags, "BitsPerSample", 1)
            if _tag(tags, "SampleFormat", 1) != (3,) or bits not in (64, 16):
                return None
            counts = _tag(tags, "StripByteCounts")
            if sum(counts) > path.stat().st_size:  # the same bytes many times over
                raise DataError(f"{path}: its strips are longer than the file; copy or save the file again")
            strips = []
            for offset, count in zip(_tag(tags, "StripOffsets"), counts, strict=True):
                file.seek(offset)
                strips.append(file.read(count))
        (width,), (height,) = _tag(tags, "ImageWidth"), _tag(tags, "ImageLength")
        _check_pixels(path, (height, width))
        (compression,) = _tag(tags, "Compression", 1)
        plain = _tag(tags, "SamplesPerPixel", 1) == _tag(tags, "Predictor", 1) == (1,)
        if not (strips and plain and compression in (1, 8, 32946)):
            raise DataError(
                f"{path}: a TIFF of {bits}-bit floating point is read in strips of one channel, plain or deflated "
                "without a predictor; save it so, or as float32, or as .npy"
            )
        size = width * height * bits // 8
        if compression != 1:
            strips = [zlib.decompressobj().decompress(strip, size + 1) for strip in strips]
        content = b"".join(strips)
    except DataError:
        raise
    except (OSError, OverflowError, MemoryError, *MALFORMED):
        return None
    if len(content) != size:
        raise DataError(
            f"{path}: expected {size} bytes of {width}x{height} pixels, got {len(content)}; copy or save the file again"
        )
    values = np.frombuffer(content, dtype=f"{order}f{bits // 8}").reshape(height, width)
    return StoredDepth(values, orientation_tag(tags.get(TAG)))


_TAGS = {
    "ImageWidth": 256, "ImageLength": 257, "BitsPerSample": 258, "Compression": 259, "StripOffsets": 273,
    "SamplesPerPixel": 277, "StripByteCounts": 279, "Predictor": 317, "SampleFormat": 339,
}  # fmt: skip


def _tag(tags: ImageFileDirectory_v2, name: str, default: int | None = None) -> tuple[int, ...]:
    """The numbers of a tag, of which Pillow unpacks a single one."""
    value = tags.get(_TAGS[name], () if default is None else default)
    return tuple(int(number) for number in value) if isinstance(value, tuple) else (int(value),)


def _check_pixels(path: Path, shape: tuple[int, ...]) -> None:
    if math.prod(shape) > MAX_PIXELS:
        raise DataError(f"{path}: refused, more than {MAX_PIXELS} pixels {shape}; make it smaller first")
