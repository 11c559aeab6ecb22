"""What tells the content of one sample from that of another, whatever list or folder it comes from."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import numpy.typing as npt

from spaceclip_plugin._digest import sha256_of
from spaceclip_plugin.data.sample import DepthSample, DepthSource

_DIGITS = 64


@runtime_checkable
class Fingerprinted(Protocol):
    """A source that knows a cheaper way than decoding, such as hashing the bytes of its files."""

    def fingerprint(self, index: int) -> str:
        """SHA-256 (hex) of what decides the image of sample `index`, then of what decides depth and intrinsics."""
        ...


def fingerprint(source: DepthSource, index: int) -> str:
    """SHA-256 (hex) of a sample's image, then that of depth and intrinsics; its name does not count.

    Sources that read files hash their bytes and what gives these a meaning, so that one pair of files has one
    fingerprint in every list. Of any other source the decoded sample is hashed: two sources that give the same arrays
    in different ways may differ.

    Raises:
        IndexError: no such sample.
        DataError: the sample cannot be read.
    """
    if isinstance(source, Fingerprinted):
        return source.fingerprint(index)
    return _of_arrays(source[index])


def photo_of(fingerprint: str) -> str:
    """The part of a fingerprint that tells the image, whatever depth it goes with."""
    return fingerprint[:_DIGITS]


def _of_arrays(sample: DepthSample) -> str:
    image, depth = (_of_array(array) for array in (sample.image, sample.depth_m))
    return image + sha256_of(f"{depth}{sample.intrinsics!r}")


def _of_array(array: npt.NDArray[Any]) -> str:
    return sha256_of(f"{array.dtype.str} {array.shape}", array.tobytes())
