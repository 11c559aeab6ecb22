from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from spaceclip_plugin.bridges.ros import McapWriter
from spaceclip_plugin.depth.camera import Intrinsics
from spaceclip_plugin.depth.depth_map import DepthMap
from spaceclip_plugin.errors import ConfigError

CAMERA = Intrinsics(fx_px=5.0, fy_px=4.5, cx_px=3.25, cy_px=1.75, image_hw=(4, 6))
STAMP_NS = 1_700_000_000_123_456_789


def depth_map(*, batch: int = 1, camera: str | None = None) -> DepthMap:
    depth_m = torch.rand((batch, 4, 6), generator=torch.Generator().manual_seed(0)) * 5 + 0.5
    valid = torch.ones_like(depth_m, dtype=torch.bool)
    valid[:, 0, 0] = False
    return DepthMap(depth_m, valid, camera, 0, (4, 6), True)


def photo() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (8, 12, 3), dtype=np.uint8)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    pytest.importorskip("mcap.writer", reason="needs mcap: pip install 'spaceclip-plugin[ros]'")
    pytest.importorskip("rosbags.typesys", reason="needs rosbags: pip install 'spaceclip-plugin[ros]'")
    pytest.importorskip("mcap_ros2", reason="needs another reader than the writer's: pip install mcap-ros2-support")
    return tmp_path / "new" / "drive.mcap"


@dataclass(frozen=True)
class Received:
    log_time_ns: int
    ros_msg: Any


def read(path: Path) -> dict[str, list[Received]]:
    """Messages by topic, by the decoder of mcap-ros2-support: the writer's messages are rosbags'."""
    from mcap.reader import make_reader
    from mcap_ros2.decoder import DecoderFactory

    found: dict[str, list[Received]] = {}
    with path.open("rb") as handle:
        reader = make_reader(handle, decoder_factories=[DecoderFactory()])
        for _, channel, message, decoded in reader.iter_decoded_messages():
            found.setdefault(channel.topic, []).append(Received(message.log_time, decoded))
    return found


class TestRoundTrip:
    def test_metres_bit_for_bit(self, file: Path) -> None:
        depth = depth_map(camera="wrist")
        with McapWriter(file) as writer:
            writer.write(depth, CAMERA, stamp_ns=STAMP_NS)
        topics = read(file)
        assert set(topics) == {"/wrist/depth/image_rect_raw", "/wrist/depth/camera_info"}
        [read_back] = topics["/wrist/depth/image_rect_raw"]
        message = read_back.ros_msg
        assert read_back.log_time_ns == STAMP_NS
        assert (message.encoding, message.step, message.is_bigendian) == ("32FC1", 24, 0)
        assert (message.header.stamp.sec, message.header.stamp.nanosec) == (1_700_000_000, 123_456_789)
        assert message.header.frame_id == "wrist_optical_frame"
        values = np.frombuffer(bytes(message.data), "<f4").reshape(message.height, message.width)
        wanted = depth.depth_m[0].numpy().copy()
        wanted[0, 0] = np.nan
        np.testing.assert_array_equal(values, wanted)

    @pytest.mark.parametrize("integer", [np.int64, np.uint64, torch.tensor])
    def test_stamps_of_any_integer_type(self, file: Path, integer: Any) -> None:
        with McapWriter(file) as writer:
            writer.write(depth_map(camera="wrist"), CAMERA, stamp_ns=integer(STAMP_NS))
        [read_back] = read(file)["/wrist/depth/image_rect_raw"]
        assert read_back.log_time_ns == STAMP_NS
        assert (read_back.ros_msg.header.stamp.sec, read_back.ros_msg.header.stamp.nanosec) == divmod(STAMP_NS, 10**9)

    def test_millimetres(self, file: Path) -> None:
        depth = depth_map()
        with McapWriter(file, encoding="16UC1") as writer:
            writer.write(depth, CAMERA, stamp_ns=0, frame_id="eye")
        [read_back] = read(file)["/camera/depth/image_rect_raw"]
        message = read_back.ros_msg
        assert (message.encoding, message.header.frame_id) == ("16UC1", "eye")
        values = np.frombuffer(bytes(message.data), "<u2").reshape(4, 6)
        assert values[0, 0] == 0
        error_mm = values[1:] - 1000 * depth.depth_m[0, 1:].double().numpy()
        assert np.abs(error_mm).max() <= 0.5

    def test_intrinsics_are_those_of_each_image(self, file: Path) -> None:
        with McapWriter(file) as writer:
            writer.write(depth_map(), CAMERA.resized((40, 60)), stamp_ns=1, image=photo())
        topics = read(file)
        for kind, (width, height, scale) in {"depth": (6, 4, 1), "color": (12, 8, 2)}.items():
            [read_back] = topics[f"/camera/{kind}/camera_info"]
            info = read_back.ros_msg
            assert (info.width, info.height, info.distortion_model) == (width, height, "plumb_bob")
            wanted = [5 * scale, 0, 3.25 * scale - 0.5, 0, 4.5 * scale, 1.75 * scale - 0.5, 0, 0, 1]
            assert list(info.k) == pytest.approx(wanted, abs=1e-12)
        [read_back] = topics["/camera/color/image_raw"]
        assert bytes(read_back.ros_msg.data) == photo().tobytes()
        assert (read_back.ros_msg.encoding, read_back.ros_msg.step) == ("rgb8", 36)

    def test_depth_is_in_metres_of_the_camera_it_is_written_with(self, file: Path) -> None:
        x, y = CAMERA.focal_length
        assumed = dataclasses.replace(depth_map(camera="given"), focal_length=(x / 2, y / 2))
        with McapWriter(file) as writer:
            writer.write(assumed, CAMERA, stamp_ns=0)
            writer.write(assumed.with_intrinsics(CAMERA).relabelled(camera="own"), stamp_ns=0)
        topics, wanted = read(file), (2 * assumed.depth_m[assumed.valid]).numpy()
        for name in ("given", "own"):
            [depth] = topics[f"/{name}/depth/image_rect_raw"]
            values = np.frombuffer(bytes(depth.ros_msg.data), "<f4")
            np.testing.assert_allclose(values[~np.isnan(values)], wanted, rtol=1e-6)
            [info] = topics[f"/{name}/depth/camera_info"]
            assert list(info.ros_msg.k) == [5, 0, 2.75, 0, 4.5, 1.25, 0, 0, 1]

    def test_projection_and_rotation(self, file: Path) -> None:
        with McapWriter(file) as writer:
            writer.write(depth_map(), CAMERA, stamp_ns=STAMP_NS)
        [read_back] = read(file)["/camera/depth/camera_info"]
        info = read_back.ros_msg
        assert list(info.p) == [5, 0, 2.75, 0, 0, 4.5, 1.25, 0, 0, 0, 1, 0]
        assert list(info.r) == [1, 0, 0, 0, 1, 0, 0, 0, 1]
        assert list(info.d) == [0] * 5
        assert (info.roi.width, info.roi.height, info.roi.do_rectify) == (0, 0, False)
        assert info.header.stamp.nanosec == 123_456_789

    def test_frames_in_their_order(self, file: Path) -> None:
        with McapWriter(file) as writer:
            for index, view in enumerate(["left", "right", "left"]):
                writer.write(depth_map(camera=view), CAMERA, stamp_ns=100 + index)
        topics = read(file)
        assert [each.log_time_ns for each in topics["/left/depth/camera_info"]] == [100, 102]
        assert [each.log_time_ns for each in topics["/right/depth/camera_info"]] == [101]


class TestNames:
    @pytest.mark.parametrize(
        ("view", "topic"),
        [("observation.images.wrist", "observation_images_wrist"), ("2", "camera_2"), ("hand cam/ü", "hand_cam_")],
    )
    def test_views_become_topics(self, file: Path, view: str, topic: str) -> None:
        with McapWriter(file) as writer:
            writer.write(depth_map(camera=view), CAMERA, stamp_ns=0)
        assert f"/{topic}/depth/image_rect_raw" in read(file)

    def test_two_cameras_never_share_a_topic(self, file: Path) -> None:
        with McapWriter(file) as writer:
            writer.write(depth_map(camera="a.b"), CAMERA, stamp_ns=0)
            with pytest.raises(ConfigError, match=r"'a\.b'.*'a/b'.*/a_b"):
                writer.write(depth_map(camera="a/b"), CAMERA, stamp_ns=1)
        assert len(read(file)["/a_b/depth/camera_info"]) == 1


class TestRefusals:
    def test_missing_intrinsics(self, file: Path) -> None:
        with McapWriter(file) as writer, pytest.raises(ConfigError, match="intrinsics"):
            writer.write(depth_map(), stamp_ns=0)

    def test_an_assumed_camera_is_not_written(self, file: Path) -> None:
        assumed = dataclasses.replace(depth_map(camera="wrist"), focal_length=(1.0, 1.0))
        with McapWriter(file) as writer, pytest.raises(ConfigError, match=r"camera 'wrist'.*assumes"):
            writer.write(assumed, stamp_ns=0)
        assert read(file) == {}

    def test_several_images(self, file: Path) -> None:
        with McapWriter(file) as writer, pytest.raises(ConfigError, match="holds 2"):
            writer.write(depth_map(batch=2), CAMERA, stamp_ns=0)

    def test_a_time_that_cannot_be_leaves_nothing(self, file: Path) -> None:
        with McapWriter(file) as writer, pytest.raises(ConfigError, match="stamp_ns"):
            writer.write(depth_map(), CAMERA, stamp_ns=-1)
        assert read(file) == {}

    def test_after_closing(self, file: Path) -> None:
        writer = McapWriter(file)
        writer.close()
        writer.close()
        with pytest.raises(ConfigError, match="closed"):
            writer.write(depth_map(), CAMERA, stamp_ns=0)

    def test_what_was_written_before_an_error_can_be_read(self, file: Path) -> None:
        def stopped() -> None:
            with McapWriter(file) as writer:
                writer.write(depth_map(), CAMERA, stamp_ns=0)
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            stopped()
        assert len(read(file)["/camera/depth/image_rect_raw"]) == 1

    def test_a_folder(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="folder"):
            McapWriter(tmp_path)

    def test_another_encoding(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="16UC1"):
            McapWriter(tmp_path / "a.mcap", encoding="64FC1")

    @pytest.mark.parametrize("library", ["mcap.writer", "rosbags.typesys"])
    def test_without_the_library(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: str) -> None:
        monkeypatch.setitem(sys.modules, library, None)
        with pytest.raises(ConfigError, match=r"pip install 'spaceclip-plugin\[ros\]'"):
            McapWriter(tmp_path / "a.mcap")
        assert list(tmp_path.iterdir()) == []
