"""Depth in MCAP files, which ROS 2 plays and Foxglove shows; written without ROS."""

from __future__ import annotations

import os
import re
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO

from typing_extensions import Self

from spaceclip_plugin._checks import choice
from spaceclip_plugin.bridges.ros import messages
from spaceclip_plugin.depth.depth_map import DepthMap, IntrinsicsLike
from spaceclip_plugin.depth.single_view import ImageLike, single_view
from spaceclip_plugin.errors import ConfigError

if TYPE_CHECKING:
    from mcap.records import Schema


class McapWriter:
    """Writes depth maps as ROS 2 messages.

        with McapWriter("drive.mcap") as writer:
            for frame in depth.read():
                writer.write(frame, intrinsics, stamp_ns=time.time_ns(), image=photo)

    A camera has the topics `/NAME/depth/image_rect_raw`, `/NAME/depth/camera_info` and, with images,
    `/NAME/color/image_raw` and `/NAME/color/camera_info`: ROS looks for the camera beside its image. NAME is the
    view's, with underscores for what a topic may not hold, or "camera".
    """

    def __init__(self, path: str | os.PathLike[str], *, encoding: str = messages.METRES) -> None:
        """Open a file; one that is there is replaced.

        Args:
            path: of the file; missing folders are created. Messages are written as they come: of a killed run, those
                in it can be recovered (`mcap recover`).
            encoding: of depth, one of `messages.ENCODINGS`.

        Raises:
            ConfigError: another encoding, `path` is a folder, or the libraries are not installed.
            OSError: the disk refuses the write.
        """
        self._encoding = choice("encoding", encoding, messages.ENCODINGS)
        target = Path(path)
        if target.is_dir():
            raise ConfigError(f"cannot write {str(path)!r}: it is a folder; give the path of an .mcap file")
        writer = import_writer()
        target.parent.mkdir(parents=True, exist_ok=True)
        self._file: BinaryIO = target.open("wb")
        self._writer: Any = writer(self._file)
        self._schemas: dict[str, Schema] = {}
        self._cameras: dict[str, str] = {}

    def write(
        self,
        depth_map: DepthMap,
        intrinsics: IntrinsicsLike,
        *,
        stamp_ns: int,
        frame_id: str | None = None,
        image: ImageLike | None = None,
    ) -> None:
        """Write what one image call of the host says.

        Args:
            depth_map: of one image.
            intrinsics: as for `DepthMap.points`.
            stamp_ns: when the image was taken, in nanoseconds since 1970 or the start of a simulation; of any integer
                type.
            frame_id: of the camera, z forward; None: the camera's name with `_optical_frame` (REP-103).
            image: (H', W', 3) uint8 RGB of the same view, at any resolution.

        Raises:
            ConfigError: the writer is closed, two cameras' names give the same topics, or an argument is not as above.
            OSError: the disk refuses the write.
        """
        if self._file.closed:
            raise ConfigError("this McapWriter is closed; make another one, with another path")
        stamp_ns = messages.whole_ns(stamp_ns)  # numpy's and others' integers, which the file's index does not take
        view = single_view(depth_map, intrinsics, image=image)
        if view.camera is None:
            raise ConfigError("a ROS depth image needs intrinsics, got None; give Intrinsics or a 3x3 matrix")
        name = self._topic_name(view.name)
        header = messages.Header(
            messages.Time.from_ns(stamp_ns), f"{name}_optical_frame" if frame_id is None else frame_id
        )
        sent: dict[str, messages.Message] = {
            "depth/image_rect_raw": messages.depth_image(depth_map, header, encoding=self._encoding),
            "depth/camera_info": messages.camera_info(view.camera, header),
        }
        if view.photo is not None and view.photo_camera is not None:
            sent["color/image_raw"] = messages.colour_image(view.photo, header)
            sent["color/camera_info"] = messages.camera_info(view.photo_camera, header)
        for topic, message in sent.items():
            self._writer.write_message(f"/{name}/{topic}", self._schema(message), message, log_time=stamp_ns)

    def close(self) -> None:
        """Write the index and close the file; may be called again."""
        if not self._file.closed:
            try:
                self._writer.finish()
            finally:
                self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _topic_name(self, camera: str) -> str:
        """The camera's name as a part of a topic: letters, digits and underscores, no digit first."""
        name = re.sub(r"[^A-Za-z0-9_]+", "_", camera)
        name = name if name[:1].isalpha() else f"camera_{name}"
        other = self._cameras.setdefault(name, camera)
        if other != camera:
            raise ConfigError(
                f"the cameras {other!r} and {camera!r} would both be written to /{name}; rename one of them: "
                "depth_map.relabelled(view=…)"
            )
        return name

    def _schema(self, message: messages.Message) -> Schema:
        kind = message.datatype
        if kind not in self._schemas:
            self._schemas[kind] = self._writer.register_msgdef(kind, message.definition)
        return self._schemas[kind]


def import_writer() -> Any:
    """The class of mcap-ros2-support that writes messages.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        from mcap_ros2.writer import Writer
    except ImportError as error:
        raise ConfigError(
            f"McapWriter needs mcap and mcap-ros2-support ({error}); pip install 'spaceclip-plugin[ros]'"
        ) from error
    return Writer
