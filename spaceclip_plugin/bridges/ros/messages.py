"""Depth as `sensor_msgs` of ROS 2, as REP-118 has it, made without ROS: rosbags has their classes and serialisation."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from spaceclip_plugin import _checks
from spaceclip_plugin.bridges.optional import imported
from spaceclip_plugin.depth import DepthArrays, DepthMap, Intrinsics
from spaceclip_plugin.depth.camera import IntrinsicsLike
from spaceclip_plugin.depth.depth_map import ASSUMED
from spaceclip_plugin.depth.photo import ImageLike
from spaceclip_plugin.errors import ConfigError

METRES = "32FC1"
ENCODINGS = (METRES, "16UC1")
_NS_PER_S = 10**9


@lru_cache(maxsize=1)
def typestore() -> Any:
    """The messages of ROS 2 Humble; ConfigError where rosbags is not installed."""
    [typesys] = imported("rosbags.typesys", needed_for="a ROS message", extra="ros")
    return typesys.get_typestore(typesys.Stores.ROS2_HUMBLE)


def header(stamp_ns: int, frame_id: str) -> Any:
    """A `std_msgs/msg/Header`: when an image was taken, and the frame (z forward, x right, y down) it is seen from.

    Args:
        stamp_ns: nanoseconds since 1970 or the start of a simulation, of any integer type: numpy's and tensors' are
            taken too. Floating-point numbers are not: at today's date, they count in steps of 256 nanoseconds.
        frame_id: name of the camera's frame.

    Raises:
        ConfigError: the stamp is no integer, negative, or more seconds than ROS counts (2**31 - 1).

    Example:
        >>> header(3_000_000_007, "wrist_optical_frame").stamp.nanosec
        7
    """
    meaning = "nanoseconds, such as time.time_ns(); of seconds: round(1e9 * seconds)"
    whole_ns = _checks.integer("stamp_ns", stamp_ns, 0, 2**31 * _NS_PER_S - 1, meaning=meaning)
    return _message(
        "std_msgs/msg/Header", _message("builtin_interfaces/msg/Time", *divmod(whole_ns, _NS_PER_S)), frame_id
    )


def depth_image(depth_map: DepthMap, header: Any, *, encoding: str = METRES) -> Any:
    """Depth along the optical axis as a `sensor_msgs/msg/Image`.

    Args:
        depth_map: of one image.
        header: of the message.
        encoding: "32FC1" or "16UC1": float32 metres with NaN where invalid, or uint16 millimetres with 0 there and
            beyond 65.535 m.

    Raises:
        ConfigError: another encoding, or the map holds more than one image.

    Example:
        >>> import torch
        >>> depth = DepthMap(torch.tensor([[[1.5, 2.0]]]), torch.tensor([[[True, False]]]), None, 0, (1, 2), True)
        >>> image = depth_image(depth, header(0, "wrist"), encoding="16UC1")
        >>> image.encoding, image.data.view("<u2").tolist()
        ('16UC1', [1500, 0])
    """
    _checks.choice("encoding", encoding, ENCODINGS)
    shown = DepthArrays.of(depth_map)
    if encoding == METRES:
        return _image(np.where(shown.valid, shown.depth_m, np.float32(np.nan)).astype("<f4"), encoding, header)
    millimetres = np.rint(shown.depth_m.astype(np.float64) * 1000)
    return _image(np.where(millimetres <= np.iinfo(np.uint16).max, millimetres, 0).astype("<u2"), encoding, header)


def colour_image(image: npt.NDArray[np.uint8], header: Any) -> Any:
    """A photo, (H, W, 3) uint8 RGB, as a `sensor_msgs/msg/Image` of encoding rgb8.

    Raises:
        ConfigError: an array of another kind.

    Example:
        >>> colour_image(np.zeros((2, 3, 3), np.uint8), header(0, "wrist")).step
        9
    """
    if image.ndim != 3 or image.shape[-1] != 3 or image.dtype != np.uint8 or image.size == 0:
        raise ConfigError(f"image must be (H, W, 3) uint8 RGB, got {image.dtype} of shape {image.shape}")
    return _image(image, "rgb8", header)


def camera_info(intrinsics: Intrinsics | DepthMap, header: Any) -> Any:
    """A pinhole camera without distortion as a `sensor_msgs/msg/CameraInfo`.

    Args:
        intrinsics: of images of their `image_hw`; or a depth map, for its own, in pixels of the depth.
        header: of the message.

    Raises:
        ConfigError: the depth map's camera is not known (one that the head only assumes is never written), or it holds
            more than one image.

    Example:
        >>> camera = Intrinsics(fx_px=5.0, fy_px=4.5, cx_px=3.0, cy_px=2.0, image_hw=(4, 6))
        >>> camera_info(camera, header(0, "wrist")).k.tolist()
        [5.0, 0.0, 2.5, 0.0, 4.5, 1.5, 0.0, 0.0, 1.0]
    """
    camera = _own_camera(intrinsics) if isinstance(intrinsics, DepthMap) else intrinsics
    # ROS puts the first pixel's centre at (0, 0), this package at (0.5, 0.5).
    k = camera.matrix().double().numpy() - np.array([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]])
    height, width = camera.image_hw
    projection = np.hstack([k, np.zeros((3, 1))])
    roi = _message("sensor_msgs/msg/RegionOfInterest", 0, 0, 0, 0, False)  # zeros: the whole image
    matrices = (np.zeros(5), k.reshape(-1), np.eye(3).reshape(-1), projection.reshape(-1))
    return _message("sensor_msgs/msg/CameraInfo", header, height, width, "plumb_bob", *matrices, 0, 0, roi)


def point_cloud(
    depth_map: DepthMap, intrinsics: IntrinsicsLike | None, header: Any, *, image: ImageLike | None = None
) -> Any:
    """The valid pixels as a `sensor_msgs/msg/PointCloud2`: x y z in metres, and `rgb` where there is an image.

    Args:
        depth_map: of one image.
        intrinsics: as for `DepthMap.points`; None: the depth map's own.
        header: of the message.
        image: (H', W', 3) uint8 RGB of the same camera, at any resolution.

    Raises:
        ConfigError: an argument is not as above.

    Example:
        >>> import torch
        >>> depth = DepthMap(torch.ones(1, 4, 6), torch.ones(1, 4, 6) > 0, None, 0, (4, 6), True)
        >>> camera = Intrinsics(fx_px=5.0, fy_px=4.5, cx_px=3.0, cy_px=2.0, image_hw=(4, 6))
        >>> cloud = point_cloud(depth, camera, header(0, "wrist"))
        >>> cloud.width, [field.name for field in cloud.fields]
        (24, ['x', 'y', 'z'])
    """
    shown = DepthArrays.of(depth_map, intrinsics, image=image)
    if shown.points_m is None:
        raise no_camera(depth_map, needed_for="a point cloud")
    names, columns = ["x", "y", "z"], [shown.points_m.astype("<f4")]
    if shown.point_colours is not None:
        # PCL's convention: the bytes of a float32 are blue, green, red and nothing.
        names.append("rgb")
        packed = np.zeros((len(shown.points_m), 4), np.uint8)
        packed[:, :3] = shown.point_colours[:, ::-1]
        columns.append(packed.view("<f4"))
    values = np.concatenate(columns, axis=1)
    float32 = typestore().types["sensor_msgs/msg/PointField"].FLOAT32
    fields = [_message("sensor_msgs/msg/PointField", name, 4 * i, float32, 1) for i, name in enumerate(names)]
    step, data = 4 * len(names), _bytes(values)
    return _message("sensor_msgs/msg/PointCloud2", header, 1, len(values), fields, False, step, len(data), data, True)


def _own_camera(depth_map: DepthMap) -> Intrinsics:
    """In pixels of the depth."""
    camera = DepthArrays.of(depth_map).intrinsics
    if camera is None:
        raise no_camera(depth_map, needed_for="a CameraInfo")
    return camera


def _image(pixels: npt.NDArray[Any], encoding: str, header: Any) -> Any:
    """Rows of `step` bytes one after another, little-endian."""
    data, (height, width) = _bytes(pixels), pixels.shape[:2]
    return _message("sensor_msgs/msg/Image", header, height, width, encoding, 0, len(data) // height, data)


def _bytes(values: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    return np.frombuffer(values.tobytes(), np.uint8)


def _message(kind: str, *values: Any) -> Any:
    return typestore().types[kind](*values)


def no_camera(depth_map: DepthMap, *, needed_for: str) -> ConfigError:
    """That the intrinsics of a depth map's camera are not known; one that the head only assumes is never written."""
    whose = "the camera" if depth_map.camera is None else f"camera {depth_map.camera!r}"
    assumed = "; one that the head only assumes is not written" if depth_map.lens == ASSUMED else ""
    return ConfigError(
        f"{needed_for} needs the intrinsics of {whose}, and they are not known{assumed}: give Intrinsics or the 3x3 "
        "matrix, here or where the head is attached (cameras=)"
    )
