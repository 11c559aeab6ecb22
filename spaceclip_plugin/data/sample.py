"""One RGB-D sample, what every data source is, and what tells the content of one sample from that of another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from spaceclip_plugin._digest import sha256_of
from spaceclip_plugin.depth import Intrinsics

_DIGITS = 64


@dataclass(frozen=True, eq=False)
class DepthSample:
    """An image and its metric depth.

    Attributes:
        image: (H, W, 3) uint8 RGB, upright.
        depth_m: (h, w) float32 metres along the optical axis, of what the image shows, at any resolution; it is
            compared and learnt at its own. 0 where unknown, infinite where it is known that nothing is there, as in the
            sky of a rendered scene; never NaN. No file says that: what is infinite in one is unknown.
        name: where it comes from, for messages ("train.txt:12 rgb/00012.jpg").
        intrinsics: of `depth_m`, where known.
        clip: the recording that it is a frame of, such as "episode 3": one camera in one place. Empty: none is known.

    Example:
        >>> import numpy as np
        >>> from spaceclip_plugin.data import DepthSample
        >>> sample = DepthSample(np.zeros((4, 6, 3), np.uint8), np.full((4, 6), 1.5, np.float32), "a wall")
        >>> float(sample.depth_m.mean())
        1.5
    """

    image: npt.NDArray[np.uint8]
    depth_m: npt.NDArray[np.float32]
    name: str
    intrinsics: Intrinsics | None = None
    clip: str = ""


class DepthSource(Protocol):
    """Random access to RGB-D samples: a list of them is one.

    A source may also have `fingerprint(index)`, see `fingerprint`; `units_per_metre` of its integer depth maps, see
    `check_depth_units`; and `exact_depth = True` where depth is exact at every pixel, as a renderer's is: not measured,
    not in-filled, not sparse. Those that can leave out bad samples are a `SelectiveSource`.

    Example:
        >>> import numpy as np
        >>> from spaceclip_plugin.data import DepthSample, DepthSource
        >>> wall = DepthSample(np.zeros((4, 6, 3), np.uint8), np.full((4, 6), 1.5, np.float32), "a wall")
        >>> source: DepthSource = [wall, wall]
        >>> source[len(source) - 1].name
        'a wall'
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> DepthSample:
        """Raises IndexError past the end, and DataError, naming the sample, where it cannot be read."""


def has_exact_depth(source: DepthSource) -> bool:
    """Whether a source says that its depth is exact at every pixel: the edges of such depth are edges of things."""
    return getattr(source, "exact_depth", False) is True


@runtime_checkable
class Fingerprinted(Protocol):
    """A source that knows a cheaper way than decoding, such as hashing the bytes of its files."""

    def fingerprint(self, index: int) -> str:
        """SHA-256 (hex) of what decides the image of sample `index`, then of what decides depth and intrinsics."""


def fingerprint(source: DepthSource, index: int) -> str:
    """SHA-256 (hex) of a sample's image, then that of depth and intrinsics; its name does not count.

    Sources that give the same arrays in different ways may differ: files are hashed, not what they are decoded to.
    """
    if isinstance(source, Fingerprinted):
        return source.fingerprint(index)
    sample = source[index]
    image, depth = (_array_digest(array) for array in (sample.image, sample.depth_m))
    return image + sha256_of(f"{depth}{sample.intrinsics!r}")


def photo_of(fingerprint: str) -> str:
    """The part of a fingerprint that tells the image, whatever depth it goes with."""
    return fingerprint[:_DIGITS]


def _array_digest(array: npt.NDArray[Any]) -> str:
    return sha256_of(f"{array.dtype.str} {array.shape}".encode() + array.tobytes())
