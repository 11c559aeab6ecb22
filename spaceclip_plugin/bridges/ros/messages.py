"""Depth as ROS 2 messages, made without ROS: what `sensor_msgs` calls Image, CameraInfo and PointCloud2.

Fields and their order are those of the definitions at https://github.com/ros2/common_interfaces; how depth is written
is REP-118's. ROS puts the first pixel's centre at (0, 0), this package at (0.5, 0.5): `camera_info` subtracts the half.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from spaceclip_plugin import _checks as checked
from spaceclip_plugin.depth.camera import Intrinsics
from spaceclip_plugin.depth.depth_map import DepthMap, IntrinsicsLike
from spaceclip_plugin.depth.single_view import ImageLike, single_view
from spaceclip_plugin.errors import ConfigError

METRES, MILLIMETRES = "32FC1", "16UC1"
ENCODINGS = (METRES, MILLIMETRES)
"""float32 metres, NaN where invalid; or uint16 millimetres, 0 where invalid and beyond 65.535 m."""

_NS_PER_S = 10**9
_FLOAT32 = 7
"""PointField's number for it."""


def _definition(own: str, **others: str) -> str:
    """Fields of a message, then those of the messages within it, as an MCAP file spells them."""
    parts = [own, *(f"MSG: {name.replace('__', '/')}\n{text}" for name, text in others.items())]
    return ("=" * 80 + "\n").join("\n".join(part.split(", ")) + "\n" for part in parts)


_HEADER = {
    "std_msgs__Header": "builtin_interfaces/Time stamp, string frame_id",
    "builtin_interfaces__Time": "int32 sec, uint32 nanosec",
}


@dataclass(frozen=True)
class Time:
    """builtin_interfaces/msg/Time: seconds and nanoseconds since 1970 or the start of a simulation."""

    sec: int
    nanosec: int

    @classmethod
    def from_ns(cls, stamp_ns: int) -> Time:
        """From nanoseconds, see `whole_ns`.

        Raises:
            ConfigError: not a whole number, negative, or more seconds than ROS counts (2**31 - 1).
        """
        return cls(*divmod(whole_ns(stamp_ns), _NS_PER_S))


def whole_ns(stamp_ns: object) -> int:
    """A stamp in nanoseconds as a Python integer, whichever integer type it has: numpy's and tensors' are taken too.

    Floating-point numbers are not: at today's date, they count in steps of 256 nanoseconds.

    Raises:
        ConfigError: not a whole number, negative, or more seconds than ROS counts (2**31 - 1).
    """
    meaning = "nanoseconds, such as time.time_ns(); of seconds: round(1e9 * seconds)"
    return checked.integer("stamp_ns", stamp_ns, 0, 2**31 * _NS_PER_S - 1, meaning=meaning)


@dataclass(frozen=True)
class Header:
    """std_msgs/msg/Header: when a picture was taken, and the frame (z forward, x right, y down) it is seen from."""

    stamp: Time
    frame_id: str


@dataclass(frozen=True)
class Image:
    """sensor_msgs/msg/Image: rows of `step` bytes one after another, little-endian."""

    datatype: ClassVar[str] = "sensor_msgs/msg/Image"
    definition: ClassVar[str] = _definition(
        "std_msgs/Header header, uint32 height, uint32 width, string encoding, uint8 is_bigendian, uint32 step, "
        "uint8[] data",
        **_HEADER,
    )
    header: Header
    height: int
    width: int
    encoding: str
    step: int
    data: bytes = field(repr=False)
    is_bigendian: int = 0


@dataclass(frozen=True)
class RegionOfInterest:
    """sensor_msgs/msg/RegionOfInterest; all zeros: the whole image."""

    x_offset: int = 0
    y_offset: int = 0
    height: int = 0
    width: int = 0
    do_rectify: bool = False


@dataclass(frozen=True)
class CameraInfo:
    """sensor_msgs/msg/CameraInfo: matrices row by row, in pixels with the first one's centre at (0, 0)."""

    datatype: ClassVar[str] = "sensor_msgs/msg/CameraInfo"
    definition: ClassVar[str] = _definition(
        "std_msgs/Header header, uint32 height, uint32 width, string distortion_model, float64[] d, float64[9] k, "
        "float64[9] r, float64[12] p, uint32 binning_x, uint32 binning_y, sensor_msgs/RegionOfInterest roi",
        **_HEADER,
        sensor_msgs__RegionOfInterest="uint32 x_offset, uint32 y_offset, uint32 height, uint32 width, bool do_rectify",
    )
    header: Header
    height: int
    width: int
    k: tuple[float, ...]
    p: tuple[float, ...]
    distortion_model: str = "plumb_bob"
    d: tuple[float, ...] = (0.0,) * 5
    r: tuple[float, ...] = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
    binning_x: int = 0
    binning_y: int = 0
    roi: RegionOfInterest = RegionOfInterest()


@dataclass(frozen=True)
class PointField:
    """sensor_msgs/msg/PointField: one number of every point."""

    name: str
    offset: int
    datatype: int = _FLOAT32
    count: int = 1


@dataclass(frozen=True)
class PointCloud2:
    """sensor_msgs/msg/PointCloud2: points one after another, little-endian."""

    datatype: ClassVar[str] = "sensor_msgs/msg/PointCloud2"
    definition: ClassVar[str] = _definition(
        "std_msgs/Header header, uint32 height, uint32 width, sensor_msgs/PointField[] fields, bool is_bigendian, "
        "uint32 point_step, uint32 row_step, uint8[] data, bool is_dense",
        **_HEADER,
        sensor_msgs__PointField="string name, uint32 offset, uint8 datatype, uint32 count",
    )
    header: Header
    width: int
    fields: tuple[PointField, ...]
    point_step: int
    row_step: int
    data: bytes = field(repr=False)
    height: int = 1
    is_bigendian: bool = False
    is_dense: bool = True


Message = Image | CameraInfo | PointCloud2


def depth_image(depth_map: DepthMap, header: Header, *, encoding: str = METRES) -> Image:
    """Depth along the optical axis as an image.

    Args:
        depth_map: of one image.
        header: of the message.
        encoding: one of `ENCODINGS`.

    Raises:
        ConfigError: another encoding, or the map holds more than one image.
    """
    checked.choice("encoding", encoding, ENCODINGS)
    view = single_view(depth_map)
    if encoding == METRES:
        values = np.where(view.valid, view.depth_m, np.float32(np.nan)).astype("<f4")
    else:
        millimetres = np.rint(view.depth_m.astype(np.float64) * 1000)
        values = np.where(millimetres <= np.iinfo(np.uint16).max, millimetres, 0).astype("<u2")
    height, width = values.shape
    return Image(header, height, width, encoding, width * values.itemsize, values.tobytes())


def colour_image(image: np.ndarray, header: Header) -> Image:
    """A photo, (H, W, 3) uint8 RGB, as an image of encoding rgb8.

    Raises:
        ConfigError: an array of another kind.
    """
    if image.ndim != 3 or image.shape[-1] != 3 or image.dtype != np.uint8 or image.size == 0:
        raise ConfigError(f"image must be (H, W, 3) uint8 RGB, got {image.dtype} of shape {image.shape}")
    height, width = image.shape[:2]
    return Image(header, height, width, "rgb8", 3 * width, image.tobytes())


def camera_info(intrinsics: Intrinsics, header: Header) -> CameraInfo:
    """A pinhole camera without distortion, for an image of size `intrinsics.image_hw`."""
    fx, fy, cx, cy = intrinsics.fx_px, intrinsics.fy_px, intrinsics.cx_px - 0.5, intrinsics.cy_px - 0.5
    height, width = intrinsics.image_hw
    k = (fx, 0.0, cx, 0.0, fy, cy, 0.0, 0.0, 1.0)
    p = (fx, 0.0, cx, 0.0, 0.0, fy, cy, 0.0, 0.0, 0.0, 1.0, 0.0)
    return CameraInfo(header, height, width, k, p)


def point_cloud(
    depth_map: DepthMap, intrinsics: IntrinsicsLike, header: Header, *, image: ImageLike | None = None
) -> PointCloud2:
    """The valid pixels as points, x y z in metres, with a field `rgb` where there is an image.

    Args:
        depth_map: of one image.
        intrinsics: as for `DepthMap.points`.
        header: of the message.
        image: (H', W', 3) uint8 RGB of the same view, at any resolution.

    Raises:
        ConfigError: an argument is not as above.
    """
    view = single_view(depth_map, intrinsics, image=image)
    if view.points_m is None:
        raise ConfigError("a point cloud needs intrinsics, got None; give the camera's Intrinsics or its 3x3 matrix")
    names = ["x", "y", "z"]
    columns = [view.points_m.astype("<f4")]
    if view.point_colours is not None:
        # PCL's convention: the bytes of a float32 are blue, green, red and nothing.
        names.append("rgb")
        packed = np.zeros((len(view.points_m), 4), np.uint8)
        packed[:, :3] = view.point_colours[:, ::-1]
        columns.append(packed.view("<f4"))
    data = np.concatenate(columns, axis=1)
    point_fields = tuple(PointField(name, 4 * index) for index, name in enumerate(names))
    step = 4 * len(names)
    return PointCloud2(header, len(data), point_fields, step, step * len(data), data.tobytes())
