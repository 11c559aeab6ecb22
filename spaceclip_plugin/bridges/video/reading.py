"""The frames of a video file as photos: upright, RGB, one after the other, each with its time.

A phone stores pixels as its sensor lies and says in a display matrix how they are turned: that is the orientation that
EXIF tells of a photo, and so the camera of a video is found as that of photos is. Only files that hold the video
themselves are opened: a playlist would have FFmpeg open others, named by whoever wrote it.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from spaceclip_plugin.bridges.video.library import import_av
from spaceclip_plugin.data.files.images import MAX_PIXELS, PhotoHeader
from spaceclip_plugin.data.files.orientation import UPRIGHT, upright
from spaceclip_plugin.data.files.paths import must_exist, next_step
from spaceclip_plugin.errors import DataError

VIDEO_SUFFIXES = frozenset({".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi"})
EXPECTED = f"a video ({', '.join(sorted(VIDEO_SUFFIXES))})"

_FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi"  # as FFmpeg calls what reads them
_ORIENTATIONS = {
    (1, 0, 0, 1): 1, (-1, 0, 0, 1): 2, (-1, 0, 0, -1): 3, (1, 0, 0, -1): 4,
    (0, 1, 1, 0): 5, (0, 1, -1, 0): 6, (0, -1, -1, 0): 7, (0, -1, 1, 0): 8,
}  # fmt: skip
"""EXIF's orientation by the signs of a display matrix a b, c d: the pixel (p, q) is seen at (a p + c q, b p + d q)."""
_UNSPECIFIED, _FULL_RANGE = 2, 2  # FFmpeg's AVCOL_SPC_UNSPECIFIED and AVCOL_RANGE_JPEG
_HIGH_DEFINITION = 720  # rows from which on players take the matrix of BT.709 where a video tells none
_HDR = {16: "PQ", 18: "HLG"}  # of ITU-R BT.2100, as FFmpeg numbers them
_ENDS_EARLY = 0.9  # of the time that the header tells; sound is often a little longer than the pictures
_AN_INSTANT_S = 1.0
_ALONE_FPS = 10.0  # of a video of one frame

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class VideoFrame:
    """A frame of a video."""

    image: npt.NDArray[np.uint8]  # (H, W, 3) RGB, upright
    time_s: float  # since the first frame


@dataclass(frozen=True)
class Video:
    """A video file that was looked through without decoding it, but for its first frame."""

    path: Path
    header: PhotoHeader  # of every frame
    frames: int  # as many as the file holds packets of
    fps: float  # on average

    def read(self) -> Iterator[VideoFrame]:
        """Every frame, in the order of their times; no two are held at once.

        Raises:
            DataError: naming the frame, where one is damaged, of another size than the first, or not after the last.
        """
        begin_s, last_s = 0.0, -np.inf
        with _opened(self.path) as (container, stream):
            for number, frame in enumerate(_decoded(self.path, container, stream)):
                where = f"{self.path}: frame {number}"
                header = _header_of(frame, where)
                if header != self.header:
                    raise DataError(
                        f"{where} is of {header.upright_hw} pixels (H, W), those before it of "
                        f"{self.header.upright_hw}; cut the video where its size changes"
                    )
                if frame.time is None or frame.time <= last_s:
                    said = "tells no time" if frame.time is None else f"is of {frame.time} s, after one of {last_s} s"
                    raise DataError(
                        f"{where} {said}; write the file anew, to .mp4 or .mkv: ffmpeg -i {self.path.name} new.mp4"
                    )
                begin_s, last_s = begin_s if number else frame.time, frame.time
                yield VideoFrame(upright(_rgb(frame), header.orientation), last_s - begin_s)


def open_video(path: Path) -> Video:
    """Look through a video file, so that one that is cut short is refused before any work.

    Raises:
        ConfigError: PyAV is not installed.
        DataError: naming the file, where it is missing, no video, damaged, cut short, or has frames too large.
    """
    must_exist(path, EXPECTED)
    with _opened(path) as (container, stream):
        _say_what_is_lost(path, stream)
        packets, begins_s, ends_s = 0, np.inf, 0.0
        for packet in container.demux(stream):
            if packet.is_corrupt:
                raise DataError(f"{path}: its frame {packets} is not all there; {next_step(path)}")
            if packet.size and not packet.is_discard:
                packets += 1
                time_s = float((packet.pts or 0) * stream.time_base)
                begins_s, ends_s = min(begins_s, time_s), max(ends_s, time_s)
        if not packets:
            raise DataError(f"{path}: the video has no frame; {next_step(path)}")
        fps = (packets - 1) / (ends_s - begins_s) if ends_s > begins_s else _ALONE_FPS
        told_s, ends_s = _duration_s(container, stream), ends_s + 1 / fps
        if ends_s < _ENDS_EARLY * told_s and told_s - ends_s > _AN_INSTANT_S:
            raise DataError(f"{path}: its frames end after {ends_s:.1f} s of {told_s:.1f} s; {next_step(path)}")
    with _opened(path) as (container, stream):
        first = next(_decoded(path, container, stream), None)
        if first is None:
            raise DataError(f"{path}: none of its {packets} frames can be decoded; {next_step(path)}")
        return Video(path, _header_of(first, f"{path}: frame 0"), packets, fps)


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Any]]:
    """The container and its first video stream; what FFmpeg says of either becomes a DataError."""
    av = import_av()
    options = {"format_whitelist": _FORMATS, "max_pixels": str(MAX_PIXELS)}
    try:
        # By a file, not by its name: FFmpeg would take some names for addresses.
        with path.open("rb") as file, av.open(file, options=options) as container:
            if not container.streams.video:
                raise DataError(f"{path}: there is no video in it; expected {EXPECTED}")
            stream = container.streams.video[0]
            codec = stream.codec_context
            if codec.width * codec.height > MAX_PIXELS:
                raise DataError(
                    f"{path}: refused, its frames have {codec.width}x{codec.height} pixels, more than {MAX_PIXELS} in "
                    "all; make it smaller first"
                )
            codec.options = {"err_detect": "crccheck+bitstream+buffer+explode", "max_pixels": str(MAX_PIXELS)}
            yield container, stream
    except (av.FFmpegError, OSError) as error:
        raise DataError(f"{path}: expected {EXPECTED}, but {_reason(error)}; {next_step(path)}") from error


def _decoded(path: Path, container: Any, stream: Any) -> Iterator[Any]:
    """PyAV's frames; a DataError that says which one is damaged."""
    av, frames, number = import_av(), container.decode(stream), 0
    while True:
        try:
            frame = next(frames)
        except StopIteration:
            return
        except av.FFmpegError as error:
            raise DataError(f"{path}: frame {number} cannot be decoded, {_reason(error)}; {next_step(path)}") from error
        if frame.is_corrupt:
            raise DataError(f"{path}: frame {number} is damaged; {next_step(path)}")
        yield frame
        number += 1


def _reason(error: Exception) -> str:
    return f"FFmpeg says: {getattr(error, 'strerror', None) or error}"


def _header_of(frame: Any, where: str) -> PhotoHeader:
    return PhotoHeader((frame.height, frame.width), _orientation(frame, where))


def _orientation(frame: Any, where: str) -> int:
    """EXIF's number for what the frame's display matrix says, 1 where there is none."""
    sides = (frame.side_data[place] for place in range(len(frame.side_data)))
    matrix = next((bytes(side) for side in sides if side.type.name == "DISPLAYMATRIX"), None)
    if matrix is None:
        return UPRIGHT
    a, b, _, c, d, *_ = struct.unpack("=9i", matrix)
    turned = _ORIENTATIONS.get((int(np.sign(a)), int(np.sign(b)), int(np.sign(c)), int(np.sign(d))))
    if turned is None:
        raise DataError(
            f"{where} is to be shown turned by no quarter turn (its display matrix has {a}, {b}, {c}, {d}); turn the "
            "video upright first"
        )
    return turned


def _rgb(frame: Any) -> npt.NDArray[np.uint8]:
    """(H, W, 3) in the full range, from the matrix and the range that the frame tells."""
    kinds = import_av().video.reformatter
    space, no_matrix = None, kinds.Colorspace.SMPTE240M  # None: its own
    if frame.colorspace == _UNSPECIFIED:
        space = kinds.Colorspace.ITU709 if frame.height >= _HIGH_DEFINITION else kinds.Colorspace.ITU601
    full = frame.color_range == _FULL_RANGE or frame.format.is_rgb
    rgb: npt.NDArray[np.uint8] = frame.reformat(
        format="rgb24",
        src_colorspace=space,
        # RGB has no matrix: this one is not used, but where it is the frame's own PyAV 15 would take that of BT.601.
        dst_colorspace=no_matrix,
        src_color_range=kinds.ColorRange.JPEG if full else kinds.ColorRange.MPEG,
        dst_color_range=kinds.ColorRange.JPEG,
    ).to_ndarray()
    return rgb


def _duration_s(container: Any, stream: Any) -> float:
    """What the header tells, or 0: of the pictures where it tells that, or of all that is in the file."""
    if stream.duration:
        return float(stream.duration * stream.time_base)
    return (container.duration or 0) / 1e6


def _say_what_is_lost(path: Path, stream: Any) -> None:
    """A warning where 8 bits of RGB, pixel by pixel, are not what a player shows."""
    codec = stream.codec_context
    if codec.color_trc in _HDR:
        _log.warning(
            "%s is HDR (%s) and is read without tone mapping: its colours are paler than those of photos, and depth "
            "may be worse; convert it to SDR first", path, _HDR[codec.color_trc],
        )  # fmt: skip
    if codec.sample_aspect_ratio not in (None, 0, 1):
        _log.warning(
            "%s has pixels of %s width to height: frames are taken as they are stored, so that they look squeezed; "
            "intrinsics are of these frames, too", path, codec.sample_aspect_ratio,
        )  # fmt: skip
