"""Small videos written with PyAV, for the tests of what reads them."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt

TICKS_PER_S = 90_000
COLOURS = ((0, 255, 0), (255, 0, 0), (0, 0, 255), (255, 255, 255))


@dataclass(frozen=True)
class Coding:
    """How pictures are stored; the defaults are lossless but for the rounding of Y'CbCr."""

    codec: str = "libx264"
    pixels: str = "yuv444p"
    options: tuple[tuple[str, str], ...] = (("qp", "0"),)
    faststart: bool = False


def corners(hw: tuple[int, int] = (48, 64)) -> npt.NDArray[np.uint8]:
    """A picture whose quarters are green, red, blue and white, row by row: any turn of it shows."""
    height, width = hw
    picture = np.zeros((height, width, 3), np.uint8)
    for number, colour in enumerate(COLOURS):
        row, column = divmod(number, 2)
        picture[row * height // 2 : (row + 1) * height // 2, column * width // 2 : (column + 1) * width // 2] = colour
    return picture


def noise(count: int, hw: tuple[int, int] = (48, 64)) -> list[npt.NDArray[np.uint8]]:
    """Pictures of random pixels: every one takes many bytes."""
    random = np.random.default_rng(0)
    return [random.integers(0, 256, (*hw, 3), dtype=np.uint8) for _ in range(count)]


def write(
    path: Path,
    pictures: Sequence[npt.NDArray[np.uint8]],
    *,
    times_s: Sequence[float] | None = None,
    coding: Coding | None = None,
) -> Path:
    """Write a video; ten pictures a second where no times are given."""
    coding = coding or Coding()
    path.parent.mkdir(parents=True, exist_ok=True)
    options = {"movflags": "+faststart"} if coding.faststart else {}
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(coding.codec, rate=10)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = coding.pixels
        stream.options = dict(coding.options)
        stream.codec_context.time_base = Fraction(1, TICKS_PER_S if times_s is not None else 10)
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = number if times_s is None else round(times_s[number] * TICKS_PER_S)
            frame.time_base = stream.codec_context.time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def write_plain(path: Path, yuv: tuple[int, int, int], *, hw: tuple[int, int], space: int, full: bool) -> Path:
    """Write a video of one frame, all of it one colour of Y'CbCr, tagged with FFmpeg's number of a matrix."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.height, stream.width = hw
        stream.pix_fmt = "yuv444p"
        stream.options = {"qp": "0"}
        stream.codec_context.colorspace = space
        stream.codec_context.color_range = 2 if full else 1
        frame = av.VideoFrame(hw[1], hw[0], "yuv444p")
        for plane, value in zip(frame.planes, yuv, strict=True):
            plane.update(bytes([value]) * plane.buffer_size)
        frame.pts = 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def turn(path: Path, matrix: Sequence[float]) -> Path:
    """Give an MP4 file's track a display matrix a b, c d, as a phone does: ISO/IEC 14496-12, 8.3.2, version 0."""
    content = bytearray(path.read_bytes())
    at = content.index(b"tkhd") + 44
    a, b, c, d = (round(value * 65536) for value in matrix)
    content[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(content)
    return path
