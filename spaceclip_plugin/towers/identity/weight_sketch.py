"""Sketches of many weights: random projections, the mean square of whose difference estimates theirs squared.

See Johnson and Lindenstrauss (1984); with `PROJECTIONS` of them the estimate is good to about a quarter.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import math
import struct
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from spaceclip_plugin.errors import ConfigError

SIDE = 4
PROJECTIONS = SIDE * SIDE

_LARGEST = 32767
_PACKED = struct.Struct(f"<Iff{PROJECTIONS}h")
_CHUNK = 1 << 18
_LARGEST_NORM = 1e9


@dataclass(frozen=True)
class Sketch:
    """What is kept of a set of weights."""

    count: int
    norm: float  # root of the sum of their squares
    step: float  # unit of the projections
    projections: tuple[int, ...]  # `PROJECTIONS` signed sums in this unit, the largest of them 32767 or -32767

    def distance(self, other: Sketch, *, min_norm: float = 0.0) -> float:
        """About how far two sets lie apart, relative to the longer one, or to `min_norm`: 0 the same, 1.4 unrelated."""
        pairs = zip(self.projections, other.projections, strict=True)
        square = sum((a * self.step - b * other.step) ** 2 for a, b in pairs) / PROJECTIONS
        longer = max(self.norm, other.norm, min_norm)
        return 0.0 if longer == 0 else math.sqrt(square) / longer


class SketchMaker:
    """Sums up one set of weights, in float64: the same on any device, with any number of threads.

    Neither names nor order of weights matter, nor whether queries, keys and values are one matrix or three.
    """

    def __init__(self, width: int) -> None:
        self._width = width  # signs repeat after so many rows and columns
        self._count = 0
        self._square = 0.0
        self._sums = np.zeros(PROJECTIONS)

    def add(self, weight: Tensor, *, counted: bool = True) -> None:
        """Add a matrix (rows, columns), or a vector; not `counted`: as a change of one that was added before."""
        if weight.ndim == 1:
            value = _wide(weight)
            self._sums += (_signs("vector", PROJECTIONS, self._width, len(value), value.device) @ value).cpu().numpy()
            self._square += counted * float(torch.dot(value, value))
        else:
            rows = max(1, _CHUNK // weight.shape[1])
            for first in range(0, len(weight), rows):
                chunk = _wide(weight[first : first + rows])
                flat = chunk.reshape(-1)
                self._square += counted * float(torch.dot(flat, flat))
                signs = _signs("columns", SIDE, self._width, weight.shape[1], chunk.device)
                self._project(chunk @ signs.T, first)
        self._count += counted * weight.numel()

    def add_products(self, product: Callable[[Tensor], Tensor], like: Tensor) -> None:
        """Add a matrix of which only products are known, (n, columns) to (n, rows) in float64; it is not rounded.

        `like` is a matrix of the same shape and about the same norm, on the product's device.
        """
        self._project(product(_signs("columns", SIDE, self._width, like.shape[1], like.device)).T, 0)
        self._square += float(torch.linalg.vector_norm(_wide(like))) ** 2
        self._count += like.numel()

    @property
    def sketch(self) -> Sketch:
        """Of all that was added; ValueError where that holds NaN, infinity or numbers beyond any use."""
        norm = math.sqrt(self._square) if self._square >= 0 else math.nan
        if not norm <= _LARGEST_NORM or not np.isfinite(self._sums).all():
            raise ValueError("holds NaN, infinity or numbers beyond any use")
        norm, step = struct.unpack("<ff", struct.pack("<ff", norm, np.abs(self._sums).max() / _LARGEST))
        units = np.zeros(PROJECTIONS) if step == 0 else np.rint(self._sums / step).clip(-_LARGEST, _LARGEST)
        return Sketch(self._count, norm, step, tuple(int(unit) for unit in units))

    def _project(self, products: Tensor, first_row: int) -> None:
        """Add aᵢᵀ P of the products P (rows, SIDE) with the columns' signs: a matrix is projected from both sides."""
        rows = _signs("rows", SIDE, self._width, first_row + len(products), products.device)[:, first_row:]
        self._sums += (rows @ products).cpu().numpy().reshape(-1)


def encoded(*sketches: Sketch) -> str:
    """Sketches as one line of text."""
    packed = (_PACKED.pack(one.count, one.norm, one.step, *one.projections) for one in sketches)
    return base64.b64encode(b"".join(packed)).decode("ascii")


def decoded(name: str, text: object, count: int) -> tuple[Sketch, ...]:
    """The `count` sketches in a line that `encoded` gave; ConfigError of anything else or a norm no weights have."""
    size = count * _PACKED.size
    try:
        raw = base64.b64decode(text, validate=True) if isinstance(text, str) else b""
    except ValueError:
        raw = b""
    if len(raw) != size or base64.b64encode(raw).decode("ascii") != text:
        raise ConfigError(f"{name} must be base64 of {size} bytes")
    sketches = tuple(Sketch(n, norm, step, tuple(units)) for n, norm, step, *units in _PACKED.iter_unpack(raw))
    for one in sketches:
        in_range = 0 <= one.norm <= _LARGEST_NORM and 0 <= one.step <= _LARGEST_NORM
        if not in_range or (one.count == 0 and one.norm != 0):
            raise ConfigError(
                f"{name}: a sketch of weights has a norm from 0 to {_LARGEST_NORM:g}, got {one.norm} of {one.count}"
            )
    return sketches


def _wide(weight: Tensor) -> Tensor:
    """Rounded to bfloat16, in float64, on the weight's own device where that has float64."""
    weight = weight.detach().to(torch.bfloat16)
    return weight.to("cpu" if weight.device.type == "mps" else weight.device, torch.float64)


@functools.lru_cache(maxsize=32)
def _signs(what: str, count: int, period: int, length: int, device: torch.device) -> Tensor:
    """(count, length) of +1 and -1, the same for ever, repeating after `period`."""
    bits = hashlib.shake_128(f"spaceclip {what}".encode()).digest(count * math.ceil(period / 8))
    signs = np.unpackbits(np.frombuffer(bits, dtype=np.uint8)).reshape(count, -1)[:, :period] * 2.0 - 1.0
    repeated = np.tile(signs, math.ceil(length / period))[:, :length]
    return torch.from_numpy(np.ascontiguousarray(repeated)).to("cpu" if device.type == "mps" else device)
