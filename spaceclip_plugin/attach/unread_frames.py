"""How much may wait to be read: so many image calls, and so many bytes of their activations."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from spaceclip_plugin._checks import integer
from spaceclip_plugin.towers.spec import RawFrame

MAX_UNREAD = 16
"""Unread frames kept by default, five steps of three cameras.

Each holds every tapped hidden state of its image call: 4 MiB for a ViT-B/16 at 224 pixels in float32 and the default
head, 8 MiB for a So400m; proportionally more for larger images.
"""
MAX_UNREAD_BYTES = 256 * 2**20
"""Bytes that unread frames may keep alive by default.

Twice what `MAX_UNREAD` frames of a So400m hold, so that the number decides at the usual sizes; megapixel images of a
Qwen-VL would otherwise hold 0.8 GB of the host's device for depth that nobody reads.
"""


@dataclass(frozen=True)
class UnreadBounds:
    """What may wait; the newest frame is kept whatever it holds.

    Attributes:
        frames: unread frames, at least 1.
        held_bytes: memory that they keep alive, at least 1 byte.

    Raises:
        ConfigError: a bound that is no such number, named as `attach_depth_head` names it.
    """

    frames: int = MAX_UNREAD
    held_bytes: int = MAX_UNREAD_BYTES

    def __post_init__(self) -> None:
        object.__setattr__(self, "frames", integer("max_unread", self.frames, 1, sys.maxsize))
        object.__setattr__(self, "held_bytes", integer("max_unread_bytes", self.held_bytes, 1, sys.maxsize))

    def kept(self, frames: Sequence[RawFrame]) -> int:
        """How many of these frames may stay, counted from the newest, which is about to run and holds nothing yet.

        Its activations are taken to be those of the frame before it, in proportion to the pixels.
        """
        kept = 1
        if len(frames) <= kept:
            return kept
        sizes = [frame.held_bytes() for frame in frames[:-1]]
        held = _expected_bytes(frames[-1], frames[-2], sizes[-1])
        for size in reversed(sizes):
            held += size
            if kept == self.frames or held > self.held_bytes:
                break
            kept += 1
        return kept


def _expected_bytes(frame: RawFrame, before: RawFrame, size_before: int) -> int:
    pixels, pixels_before = frame.call.pixels, before.call.pixels
    if pixels is None or pixels_before is None or pixels_before.numel() == 0:
        return size_before
    return size_before * pixels.numel() // pixels_before.numel()
