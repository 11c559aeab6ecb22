"""Pictures as a video that players and browsers show: H.264 in MP4, each picture at its time."""

from __future__ import annotations

import os
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
from typing_extensions import Self

from spaceclip_plugin.bridges.video.library import import_av
from spaceclip_plugin.errors import ConfigError

_ENCODER = "libx264"
_TICKS_PER_S = 90_000  # of MPEG: whole numbers of it are the frames of 24, 25, 30 and 60 a second
_BT709, _LIMITED = 1, 1  # as FFmpeg numbers matrix, primaries and transfer, and the range
_QUALITY = {"crf": "18", "preset": "medium", "bf": "0"}  # without B-frames the file's duration is that of the pictures


class VideoWriter:
    """Writes pictures of one size as they come; the file is whole once the writer is closed."""

    def __init__(self, path: str | os.PathLike[str], *, fps: float) -> None:
        """Open the file; `fps` is about how many pictures a second there will be, and how long the last one stays.

        Raises:
            ConfigError: PyAV is not installed, or its FFmpeg has no encoder for H.264.
        """
        self._av = import_writer()
        place = os.path.abspath(path)  # FFmpeg takes what stands before a colon for a protocol
        self._container: Any = self._av.open(place, "w", format="mp4", options={"movflags": "+faststart"})
        self._rate = Fraction(fps).limit_denominator(1000)
        self._stream: Any = None
        self._hw: tuple[int, ...] = ()
        self._begin_s, self._last = 0.0, -1

    def write(self, picture: npt.NDArray[np.uint8], time_s: float) -> None:
        """Add a picture, (H, W, 3) uint8 RGB, that is shown from this time on; that of the first one is the video's 0.

        H.264 wants even sides: the last row or column of others is there twice.

        Raises:
            ConfigError: it is of another size than the first, or not after the last.
        """
        if self._stream is None:
            self._begin(picture.shape[:2], time_s)
        if picture.shape[:2] != self._hw:
            raise ConfigError(f"a video's pictures are of one size, {self._hw} (H, W), got {picture.shape[:2]}")
        ticks = round((time_s - self._begin_s) * _TICKS_PER_S)
        if ticks <= self._last:
            raise ConfigError(f"a video's pictures come in the order of their times; {time_s} s is not after the last")
        self._last = ticks
        odd = [(0, side % 2) for side in self._hw]
        frame = self._av.VideoFrame.from_ndarray(np.pad(picture, [*odd, (0, 0)], mode="edge"), format="rgb24")
        kinds = self._av.video.reformatter
        frame = frame.reformat(
            format="yuv420p",
            src_color_range=kinds.ColorRange.JPEG,
            dst_color_range=kinds.ColorRange.MPEG,
            dst_colorspace=kinds.Colorspace.ITU709,
        )
        frame.pts, frame.time_base = ticks, Fraction(1, _TICKS_PER_S)
        self._container.mux(self._stream.encode(frame))

    def close(self) -> None:
        """Write what is left; may be called again."""
        if self._container is not None:
            if self._stream is not None:
                self._container.mux(self._stream.encode(None))
            self._container.close()
            self._container = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _begin(self, hw: tuple[int, ...], time_s: float) -> None:
        self._hw, self._begin_s = hw, time_s
        stream = self._container.add_stream(_ENCODER, rate=self._rate)
        stream.height, stream.width = (side + side % 2 for side in hw)
        stream.pix_fmt = "yuv420p"
        stream.options = dict(_QUALITY)
        codec = stream.codec_context
        codec.time_base = Fraction(1, _TICKS_PER_S)
        codec.colorspace = codec.color_primaries = codec.color_trc = _BT709
        codec.color_range = _LIMITED
        self._stream = stream


def import_writer() -> Any:
    """The package av, if it can write H.264; ConfigError otherwise."""
    av = import_av()
    if _ENCODER not in av.codecs_available:
        raise ConfigError(
            f"this PyAV (av {av.__version__}) was built without {_ENCODER} and cannot write H.264; its wheels have it: "
            "pip install --force-reinstall --only-binary av av"
        )
    return av
