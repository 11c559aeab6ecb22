"""Depth in metres as NumPy files: one floating-point array (H, W), as .npy or alone in an .npz."""

from __future__ import annotations

import tokenize
import zipfile
from pathlib import Path

import numpy as np
import numpy.typing as npt

from spaceclip_plugin.data.files.faults import next_step
from spaceclip_plugin.data.files.opened_image import MALFORMED, MAX_PIXELS, must_exist
from spaceclip_plugin.errors import DataError

_EXPECTED = "a NumPy array (H, W) of metres in floating point"
# What NumPy and zipfile let through, besides, when the bytes of a file are changed at random.
_MALFORMED = (
    *MALFORMED, LookupError, ArithmeticError, MemoryError, NotImplementedError, tokenize.TokenError, zipfile.BadZipFile,
)  # fmt: skip


def read_npy(path: Path) -> npt.NDArray[np.floating]:
    """The array of an .npy file, a last axis of one channel dropped.

    Raises:
        DataError: the file is missing, damaged, larger than 64 megapixels, or holds something else. Names the file.
    """
    must_exist(path, _EXPECTED)
    try:
        # Mapped: only the header is read before the size is known, and a pickle, which may run code, cannot be.
        stored = np.lib.format.open_memmap(path, mode="r")
        _check(path, stored.shape, stored.dtype)
        return _flat(np.array(stored))
    except DataError:
        raise
    except (OSError, *_MALFORMED) as error:
        raise _unreadable(path, error) from error


def read_npz(path: Path) -> npt.NDArray[np.floating]:
    """The only array of an .npz file; see `read_npy` for errors.

    Raises:
        DataError: there are several arrays, or none, besides.
    """
    must_exist(path, _EXPECTED)
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith(".npy")]
            if len(names) != 1:
                found = ", ".join(name.removesuffix(".npy") for name in names) or "none"
                raise DataError(
                    f"{path}: expected one array in the archive, got {len(names)} ({found}); save the depth alone: "
                    "np.savez_compressed(path, depth)"
                )
            # The header first: what it claims decides whether anything is unpacked.
            with archive.open(names[0]) as member:
                version = np.lib.format.read_magic(member)
                read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                shape, _, dtype = read(member)
            _check(path, shape, dtype)
            with archive.open(names[0]) as member:
                return _flat(np.lib.format.read_array(member, allow_pickle=False))
    except DataError:
        raise
    except (OSError, *_MALFORMED) as error:
        raise _unreadable(path, error) from error


def _check(path: Path, shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> None:
    if len(shape) not in (2, 3) or (len(shape) == 3 and shape[2] != 1) or dtype.kind != "f":
        raise DataError(f"{path}: expected {_EXPECTED}, got shape {shape} of {dtype}; {_advice(dtype)}")
    if int(np.prod(shape, dtype=object)) > MAX_PIXELS:
        raise DataError(f"{path}: refused, more than {MAX_PIXELS} pixels {shape}; make it smaller first")


def _advice(dtype: np.dtype[np.generic]) -> str:
    if dtype.kind in "iu":
        return (
            "integers do not say their unit: save metres in floating point, (depth / units_per_metre).astype('float32')"
            ", or the integers as uint16 in a 16-bit PNG, whose unit can be given"
        )
    return "save one map of metres as float32"


def _flat(array: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    return array[:, :, 0] if array.ndim == 3 else array


def _unreadable(path: Path, error: Exception) -> DataError:
    return DataError(f"{path}: expected {_EXPECTED}, but it cannot be read ({error}); {next_step(path)}")
