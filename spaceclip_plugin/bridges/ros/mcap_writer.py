"""Depth in MCAP files, which ROS 2 plays and Foxglove shows; written without ROS."""

from __future__ import annotations

import os
import re
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from typing_extensions import Self

from spaceclip_plugin import __version__
from spaceclip_plugin._checks import choice
from spaceclip_plugin.bridges.optional import imported
from spaceclip_plugin.bridges.ros import messages
from spaceclip_plugin.depth import DepthArrays, DepthMap
from spaceclip_plugin.depth.camera import IntrinsicsLike
from spaceclip_plugin.depth.photo import ImageLike
from spaceclip_plugin.errors import ConfigError


class McapWriter:
    """Writes depth maps as ROS 2 messages.

    A camera has the topics `/NAME/depth/image_rect_raw`, `/NAME/depth/camera_info` and, with images,
    `/NAME/color/image_raw` and `/NAME/color/camera_info`: ROS looks for the camera beside its image. NAME is the
    camera's, with underscores for what a topic may not hold, or "camera".

    Example:
        >>> import tempfile, torch
        >>> from spaceclip_plugin import DepthMap, Intrinsics
        >>> depth = DepthMap(torch.ones(1, 4, 6), torch.ones(1, 4, 6) > 0, "wrist", 0, (4, 6), True)
        >>> camera = Intrinsics(fx_px=5.0, fy_px=4.5, cx_px=3.0, cy_px=2.0, image_hw=(4, 6))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with McapWriter(f"{folder}/drive.mcap") as writer:
        ...         writer.write(depth, camera, stamp_ns=0)
    """

    def __init__(self, path: str | os.PathLike[str], *, encoding: str = messages.METRES) -> None:
        """Open a file; one that is there is replaced.

        Args:
            path: of the file; missing folders are created. Messages are written as they come: of a killed run, those
                in it can be recovered (`mcap recover`).
            encoding: of depth, "32FC1" or "16UC1", see `depth_image`.

        Raises:
            ConfigError: another encoding, `path` is a folder, or the libraries are not installed.
            OSError: the disk refuses the write.
        """
        self._encoding = choice("encoding", encoding, messages.ENCODINGS)
        target = Path(path)
        if target.is_dir():
            raise ConfigError(f"cannot write {str(path)!r}: it is a folder; give the path of an .mcap file")
        library = import_mcap()
        target.parent.mkdir(parents=True, exist_ok=True)
        file = target.open("wb")
        self._writer = library.Writer(file)
        self._writer.start(profile="ros2", library=f"spaceclip-plugin {__version__}")
        self._open = ExitStack()
        self._open.enter_context(file)
        self._open.callback(self._writer.finish)  # runs first
        self._closed = False
        self._schemas: dict[str, int] = {}
        self._channels: dict[str, int] = {}
        self._cameras: dict[str, str] = {}

    def write(
        self,
        depth_map: DepthMap,
        intrinsics: IntrinsicsLike | None = None,
        *,
        stamp_ns: int,
        frame_id: str | None = None,
        image: ImageLike | None = None,
    ) -> None:
        """Write what one image call of the host says.

        Args:
            depth_map: of one image.
            intrinsics: as for `DepthMap.points`, and depth is written in metres of that camera; None: the depth map's
                own.
            stamp_ns: when the image was taken, see `header`.
            frame_id: of the camera, z forward; None: the camera's name with `_optical_frame` (REP-103).
            image: (H', W', 3) uint8 RGB of the same camera, at any resolution.

        Raises:
            ConfigError: the writer is closed, two cameras' names give the same topics, the camera's intrinsics are not
                known (one that the head only assumes is not written), or an argument is not as above.
            OSError: the disk refuses the write.
        """
        if self._closed:
            raise ConfigError("this McapWriter is closed; make another one, with another path")
        shown = DepthArrays.of(depth_map, intrinsics, image=image)
        if shown.intrinsics is None:
            raise messages.no_camera(depth_map, needed_for="a ROS depth image")
        if intrinsics is not None:
            depth_map = depth_map.with_intrinsics(intrinsics)
        name = self._topic_name(shown.camera)
        header = messages.header(stamp_ns, f"{name}_optical_frame" if frame_id is None else frame_id)
        sent = {
            "depth/image_rect_raw": messages.depth_image(depth_map, header, encoding=self._encoding),
            "depth/camera_info": messages.camera_info(shown.intrinsics, header),
        }
        if shown.photo is not None and shown.photo_intrinsics is not None:
            sent["color/image_raw"] = messages.colour_image(shown.photo, header)
            sent["color/camera_info"] = messages.camera_info(shown.photo_intrinsics, header)
        for topic, message in sent.items():
            data = bytes(messages.typestore().serialize_cdr(message, message.__msgtype__))
            channel = self._channel(f"/{name}/{topic}", message.__msgtype__)
            self._writer.add_message(channel, int(stamp_ns), data, int(stamp_ns))

    def close(self) -> None:
        """Write the index and close the file; may be called again."""
        self._closed = True
        self._open.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _topic_name(self, camera: str) -> str:
        """The camera's name as a part of a topic: letters, digits and underscores, no digit first."""
        name = re.sub(r"[^A-Za-z0-9_]+", "_", camera)
        name = name if name[:1].isalpha() else f"camera_{name}"
        other = self._cameras.setdefault(name, camera)
        if other != camera:
            raise ConfigError(
                f"the cameras {other!r} and {camera!r} would both be written to /{name}; rename one of them: "
                "depth_map.relabelled(camera=…)"
            )
        return name

    def _channel(self, topic: str, kind: str) -> int:
        if kind not in self._schemas:
            definition, _ = messages.typestore().generate_msgdef(kind, ros_version=2)
            self._schemas[kind] = self._writer.register_schema(kind, "ros2msg", definition.encode())
        if topic not in self._channels:
            self._channels[topic] = self._writer.register_channel(topic, "cdr", self._schemas[kind])
        return self._channels[topic]


def import_mcap() -> Any:
    """The module that writes MCAP files; ConfigError where it or rosbags is not installed."""
    [library, _] = imported("mcap.writer", "rosbags.typesys", needed_for="an MCAP file", extra="ros")
    return library
