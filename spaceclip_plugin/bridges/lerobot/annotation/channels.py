"""What is written of a camera's depth: features of LeRobot's own format, and the values of a depth map in them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from spaceclip_plugin import DepthMap
from spaceclip_plugin._checks import choice
from spaceclip_plugin.bridges.lerobot.format import DEPTH_SUFFIX, PREDICTED_BY, SHIFT_M, end_steps_m
from spaceclip_plugin.errors import ConfigError

IMAGE, VIDEO = "image", "video"
"""The two dtypes that LeRobot's format has for pictures."""
UNCERTAINTY, VALIDITY, THREE_CHANNELS = "uncertainty", "validity", "three-channels"
EXTRAS = (UNCERTAINTY, VALIDITY, THREE_CHANNELS)
"""What may be written beside depth."""

_SUFFIXES = {
    UNCERTAINTY: f"{DEPTH_SUFFIX}_uncertainty",
    VALIDITY: f"{DEPTH_SUFFIX}_valid",
    THREE_CHANNELS: f"{DEPTH_SUFFIX}_rgb",
}
_MM_PER_METRE = 1000
_MOST_MM = 65534  # 65535 is what 16 bits saturate at
_MARGIN = 1e-3  # of the farthest depth, beyond both ends of a video's range: they stand for unknown depth
# Lossless as LeRobot's own, but no frame needs one from across a key frame: with its defaults, PyAV does not find the
# first frame of an episode behind another's in one file, and an episode of two frames cannot be encoded.
_LOSSLESS = {"x265-params": "lossless=1:bframes=0:open-gop=0"}
_UNCERTAINTY_SHIFT_M = 0.1  # steps of a tenth of a millimetre where a head is sure

Frames = npt.NDArray[Any]
"""(B, H, W, C), in the dtype in which LeRobot takes frames."""


class Channel(Protocol):
    """One feature, and how a depth map's values become its frames."""

    @property
    def key(self) -> str:
        """Of the feature."""

    @property
    def dtype(self) -> str:
        """Of the feature: "image" or "video"."""

    def feature(self, image_hw: tuple[int, int]) -> dict[str, Any]:
        """As `LeRobotDataset.create` takes it."""

    def frames(self, depth: DepthMap) -> Frames:
        """The values of a batch."""

    def encoder(self) -> dict[str, Any] | None:
        """Settings of LeRobot's `DepthEncoderConfig`, where the feature is a depth video."""


@dataclass(frozen=True)
class Metres:
    """Depth, or its standard deviation: one channel of metres, 0 where there is no depth.

    As images, 16-bit millimetres or float metres; as video, the 4096 steps of LeRobot's depth videos over `range_m`,
    logarithmic with `shift_m`. A known value that lies on an end of what can be stored is moved by the one step that
    tells it from unknown.
    """

    key: str
    dtype: str
    unit: str
    range_m: tuple[float, float]
    shift_m: float
    head: str
    deviation: bool = False

    def feature(self, image_hw: tuple[int, int]) -> dict[str, Any]:
        """A depth map, marked as predicted."""
        return _feature(self.dtype, (*image_hw, 1), {"is_depth_map": True, "depth_unit": self.unit}, self.head)

    def frames(self, depth: DepthMap) -> Frames:
        """(B, H, W, 1) uint16 millimetres or float32 metres."""
        values = depth.uncertainty_m if self.deviation else depth.depth_m
        if values is None:
            raise ConfigError("this head gives no uncertainty; leave it out, or take a head trained with uncertainty")
        metres = values.cpu().numpy()[..., None]
        known = depth.valid.cpu().numpy()[..., None]
        if self.unit == "mm":
            millimetres = np.rint(metres * _MM_PER_METRE).clip(1, _MOST_MM)
            return np.where(known, millimetres, 0).astype(np.uint16)
        if self.dtype == VIDEO:
            first_m, last_m = end_steps_m(*self.range_m, self.shift_m)
            metres = metres.clip(self.range_m[0] + first_m, self.range_m[1] - last_m)
        return np.where(known, metres, 0).astype(np.float32)

    def encoder(self) -> dict[str, Any] | None:
        """The range and the steps of the video."""
        if self.dtype != VIDEO:
            return None
        low_m, high_m = self.range_m
        quantised = {"depth_min": low_m, "depth_max": high_m, "shift": self.shift_m, "use_log": True}
        return {**quantised, "extra_options": _LOSSLESS}


@dataclass(frozen=True)
class Validity:
    """White where there is depth, black where there is none: lossless images, whatever the photos are kept as."""

    key: str
    head: str
    dtype: str = IMAGE

    def feature(self, image_hw: tuple[int, int]) -> dict[str, Any]:
        """Pictures of three equal channels, the only other kind that LeRobot keeps."""
        return _feature(self.dtype, (*image_hw, 3), {}, self.head)

    def frames(self, depth: DepthMap) -> Frames:
        """(B, H, W, 3) uint8, 0 or 255."""
        white = depth.valid.cpu().numpy()[..., None].astype(np.uint8) * np.uint8(255)
        return np.repeat(white, 3, axis=-1)

    def encoder(self) -> None:
        """None: these are images."""


@dataclass(frozen=True)
class ThreeChannels:
    """Depth as a grey picture, for policies that take no other: brighter is nearer.

    The value is 1 + 254 log(far / d) / log(far / near) over `range_m`, rounded, and 0 where there is no depth. As video
    it is encoded like any photo, with loss.
    """

    key: str
    dtype: str
    range_m: tuple[float, float]
    head: str

    def feature(self, image_hw: tuple[int, int]) -> dict[str, Any]:
        """A picture of three equal channels."""
        return _feature(self.dtype, (*image_hw, 3), {"spaceclip_log_range_m": list(self.range_m)}, self.head)

    def frames(self, depth: DepthMap) -> Frames:
        """(B, H, W, 3) uint8."""
        near_m, far_m = self.range_m
        metres = depth.depth_m.cpu().numpy()[..., None].clip(near_m, far_m)
        grey = np.rint(1 + 254 * np.log(far_m / metres) / math.log(far_m / near_m))
        known = depth.valid.cpu().numpy()[..., None]
        return np.repeat(np.where(known, grey, 0).astype(np.uint8), 3, axis=-1)

    def encoder(self) -> None:
        """None: as video it is one of photos."""


@dataclass(frozen=True)
class Storage:
    """How depth is stored.

    Attributes:
        dtype: "image" or "video".
        unit: of images, "mm" or "m"; a video's frames are handed over in metres.
        extras: of `EXTRAS`, what is written beside depth.
        range_m: nearest and farthest depth that the head can give.
    """

    dtype: str
    unit: str
    extras: tuple[str, ...]
    range_m: tuple[float, float]

    def __post_init__(self) -> None:
        choice("what depth is stored as", self.dtype, (IMAGE, VIDEO))
        choice("unit", self.unit, ("m", "mm"))
        for extra in self.extras:
            choice("what is written beside depth", extra, EXTRAS)
        if self.dtype == VIDEO and self.unit == "mm":
            object.__setattr__(self, "unit", "m")
        if self.unit == "mm" and self.range_m[1] * _MM_PER_METRE > _MOST_MM:
            raise ConfigError(
                f"depth up to {self.range_m[1]:g} m does not fit into 16-bit millimetres, which end at 65.5 m; store "
                "metres (--unit m), or a video"
            )

    def channels(self, camera: str, *, head: str) -> tuple[Channel, ...]:
        """The features of the camera whose photos have that key, by the head of that digest."""
        near_m, far_m = self.range_m
        margin_m = far_m * _MARGIN
        wider = (max(0.0, near_m - margin_m), far_m + margin_m)
        depth = Metres(camera + DEPTH_SUFFIX, self.dtype, self.unit, wider, SHIFT_M, head)
        channels: list[Channel] = [depth]
        if UNCERTAINTY in self.extras:
            key, deviations_m = camera + _SUFFIXES[UNCERTAINTY], (0.0, far_m + margin_m)
            channels.append(
                Metres(key, self.dtype, self.unit, deviations_m, _UNCERTAINTY_SHIFT_M, head, deviation=True)
            )
        if VALIDITY in self.extras:
            channels.append(Validity(camera + _SUFFIXES[VALIDITY], head))
        if THREE_CHANNELS in self.extras:
            channels.append(ThreeChannels(camera + _SUFFIXES[THREE_CHANNELS], self.dtype, self.range_m, head))
        return tuple(channels)


def _feature(dtype: str, shape: tuple[int, int, int], info: dict[str, Any], head: str) -> dict[str, Any]:
    names = ["height", "width", "channels"]
    return {"dtype": dtype, "shape": shape, "names": names, "info": {**info, PREDICTED_BY: head}}
