"""Pictures, depth and masks as tensors of bytes, smaller and without loss."""

from __future__ import annotations

import io
import zlib

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor


def packed_image(image: npt.NDArray[np.uint8]) -> Tensor:
    """(H, W, 3) uint8 as a PNG."""
    png = io.BytesIO()
    Image.fromarray(image).save(png, "png")
    return _tensor(png.getvalue())


def unpacked_image(packed: Tensor) -> npt.NDArray[np.uint8]:
    """What `packed_image` was given."""
    return np.array(Image.open(io.BytesIO(packed.numpy().tobytes())))


def packed_depth(depth_m: npt.NDArray[np.float32]) -> Tensor:
    """(H, W) float32, in half of what zlib alone makes of it: differences along the rows, as integers, and their bytes
    by significance."""
    steps = np.diff(depth_m.view(np.uint32), axis=1, prepend=np.uint32(0))
    return _tensor(zlib.compress(steps.astype("<u4").view(np.uint8).reshape(-1, 4).T.tobytes()))


def unpacked_depth(packed: Tensor, hw: tuple[int, int]) -> npt.NDArray[np.float32]:
    """What `packed_depth` was given, of height and width `hw`."""
    planes = np.frombuffer(zlib.decompress(packed.numpy().tobytes()), np.uint8).reshape(4, -1)
    steps = np.ascontiguousarray(planes.T).view("<u4").reshape(hw)
    return np.cumsum(steps, axis=1, dtype=np.uint32).view(np.float32)


def packed_mask(mask: npt.NDArray[np.bool_]) -> Tensor:
    """(H, W) bool, eight to a byte."""
    return _tensor(zlib.compress(np.packbits(mask).tobytes()))


def unpacked_mask(packed: Tensor, hw: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """What `packed_mask` was given, of height and width `hw`."""
    bits = np.frombuffer(zlib.decompress(packed.numpy().tobytes()), np.uint8)
    return np.unpackbits(bits, count=hw[0] * hw[1]).astype(bool).reshape(hw)


def _tensor(content: bytes) -> Tensor:
    return torch.from_numpy(np.frombuffer(content, np.uint8).copy())
