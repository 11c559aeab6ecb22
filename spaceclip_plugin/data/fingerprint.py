"""What tells the content of one sample from that of another, whatever list or folder it comes from."""

from __future__ import annotations

import hashlib
from typing import Protocol, runtime_checkable

from spaceclip_plugin.data.sample import DepthSample, DepthSource


@runtime_checkable
class Fingerprinted(Protocol):
    """A source that knows a cheaper way than decoding, such as hashing the bytes of its files."""

    def fingerprint(self, index: int) -> str:
        """SHA-256 (hex) of whatever decides image, depth and intrinsics of sample `index`."""
        ...


def fingerprint(source: DepthSource, index: int) -> str:
    """SHA-256 (hex) of the content of a sample; its name does not count.

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


def _of_arrays(sample: DepthSample) -> str:
    total = hashlib.sha256(repr(sample.intrinsics).encode())
    for array in (sample.image, sample.depth_m):
        total.update(f"{array.dtype.str} {array.shape}".encode())
        total.update(array.tobytes())
    return total.hexdigest()
