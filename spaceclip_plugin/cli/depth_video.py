"""The video of a clip's depth: every frame beside its depth, in colours that mean the same from first to last."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from spaceclip_plugin._files import atomic_path
from spaceclip_plugin.bridges.video.writing import VideoWriter
from spaceclip_plugin.cli.clips import Clip
from spaceclip_plugin.cli.shots import Image, Shot
from spaceclip_plugin.depth import DepthMap, depth_picture
from spaceclip_plugin.depth.colours import depth_range

_FIRST = 8
"""Frames that wait, in full, until the colours are chosen: few, for they may be large."""
_NEARER, _FARTHER = 0.8, 1.25


@dataclass(frozen=True)
class _Picture:
    depth: DepthMap  # its camera's name is what is written under the picture
    photo: Image
    time_s: float


class DepthVideo:
    """The video under way. A stream's far end is not known at its beginning, and colours cannot change in its midst:
    their range is given, or what shows the first frames well with room on either side."""

    def __init__(self, writer: VideoWriter, depth_range_m: tuple[float, float] | None) -> None:
        self._writer, self._range_m = writer, depth_range_m
        self._waiting: list[_Picture] = []
        self._pixels = self._beyond = 0

    def add(self, shot: Shot, depth: DepthMap, photo: Image) -> None:
        """Take a frame with its depth."""
        self._waiting.append(_Picture(depth.relabelled(camera=shot.name), photo, shot.time_s or 0.0))
        if self._range_m is not None or len(self._waiting) >= _FIRST:
            self._write_waiting()

    def close(self) -> None:
        """Write the frames that wait."""
        self._write_waiting()

    @property
    def said(self) -> dict[str, Any]:
        """The range of the colours, and the share of valid pixels beyond it."""
        share = self._beyond / self._pixels if self._pixels else 0.0
        return {"depth_range_m": None if self._range_m is None else list(self._range_m), "beyond_range": share}

    def _write_waiting(self) -> None:
        if not self._waiting:
            return
        if self._range_m is None:
            self._range_m = _range_of([one.depth for one in self._waiting])
        near_m, far_m = self._range_m
        for one in self._waiting:
            self._writer.write(depth_picture(one.depth, one.photo, depth_range_m=self._range_m), one.time_s)
            depth_m = one.depth.depth_m[one.depth.valid]
            self._pixels += depth_m.numel()
            self._beyond += int(((depth_m < near_m) | (depth_m > far_m)).sum())
        self._waiting.clear()


def _range_of(depths: Sequence[DepthMap]) -> tuple[float, float]:
    depth_m, valid = (
        torch.cat(maps).cpu().numpy() for maps in zip(*((d.depth_m, d.valid) for d in depths), strict=True)
    )
    near_m, far_m = depth_range(depth_m, valid, None)
    return _NEARER * near_m, _FARTHER * far_m


@contextmanager
def depth_video(
    clip: Clip | None, depth_range_m: tuple[float, float] | None, *, replace: bool
) -> Iterator[DepthVideo | None]:
    """The video of a clip, which gets its name when the block ends well; None of photos."""
    if clip is None:
        yield None
        return
    with atomic_path(clip.depth_video, replace=replace) as temporary, VideoWriter(temporary, fps=clip.fps) as writer:
        video = DepthVideo(writer, depth_range_m)
        yield video
        video.close()
