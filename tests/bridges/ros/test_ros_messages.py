from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from spaceclip_plugin.bridges.ros import camera_info, colour_image, depth_image, header, point_cloud
from spaceclip_plugin.bridges.ros.messages import typestore
from spaceclip_plugin.depth.camera import Intrinsics
from spaceclip_plugin.depth.depth_map import DepthMap
from spaceclip_plugin.errors import ConfigError

pytest.importorskip("rosbags.typesys", reason="needs rosbags: pip install 'spaceclip-plugin[ros]'")

HEADER = header(3_000_000_007, "wrist_optical_frame")
PHOTO = np.arange(18, dtype=np.uint8).reshape(2, 3, 3)
CAMERA = Intrinsics(fx_px=5.0, fy_px=4.5, cx_px=3.25, cy_px=1.75, image_hw=(2, 3))
DEPTH_M = [[9.0, 1.0004, 1.0006], [65.535, 65.536, 0.25]]  # the first one is invalid


def depth_map(depth_m: Any = DEPTH_M, **changed: Any) -> DepthMap:
    depth = torch.tensor([depth_m])
    valid = torch.ones_like(depth, dtype=torch.bool)
    valid[:, 0, 0] = False
    return DepthMap(depth, valid, **{"camera": None, "frame": 0, "image_hw": (2, 3), "trained": True, **changed})


def stamp(stamp_ns: Any) -> tuple[int, int]:
    time = header(stamp_ns, "eye").stamp
    return time.sec, time.nanosec


class TestTime:
    def test_nanoseconds(self) -> None:
        assert stamp(3_000_000_007) == (3, 7)
        assert stamp(2**31 * 10**9 - 1) == (2**31 - 1, 999_999_999)
        assert header(0, "wrist_optical_frame").frame_id == "wrist_optical_frame"

    @pytest.mark.parametrize("integer", [np.int64, np.uint64, torch.tensor, np.array])
    def test_nanoseconds_of_any_integer_type(self, integer: Any) -> None:
        """As pandas, data sets and arrays of stamps give them: 1 700 000 000.123456789 s, to the nanosecond."""
        sec, nanosec = stamp(integer(1_700_000_000_123_456_789))
        assert (sec, nanosec) == (1_700_000_000, 123_456_789)
        assert (type(sec), type(nanosec)) == (int, int)

    def test_floating_point_numbers_are_told_what_is_expected(self) -> None:
        with pytest.raises(ConfigError, match=r"stamp_ns.*1\.7000000001234568e\+18"):
            stamp(1.700_000_000_123_456_789e18)

    @pytest.mark.parametrize(
        "bad",
        [-1, 2**31 * 10**9, 1.5, True, np.int64(-1), np.float64(2.0), np.bool_(True), torch.tensor(True), "1",
         np.array([1]), torch.tensor([1]), np.datetime64(1, "ns"), None],
    )  # fmt: skip
    def test_what_ros_cannot_count(self, bad: Any) -> None:
        with pytest.raises(ConfigError, match="stamp_ns"):
            stamp(bad)


class TestDepthImage:
    def test_metres_with_nan_where_invalid(self) -> None:
        message = depth_image(depth_map(), HEADER)
        assert (message.header, message.encoding, message.is_bigendian) == (HEADER, "32FC1", 0)
        assert (message.height, message.width, message.step) == (2, 3, 12)
        values = np.frombuffer(message.data, "<f4").reshape(2, 3)
        wanted = np.array(DEPTH_M, np.float32)
        wanted[0, 0] = np.nan
        np.testing.assert_array_equal(values, wanted)

    def test_millimetres_with_nought_where_invalid_or_too_far(self) -> None:
        message = depth_image(depth_map(), HEADER, encoding="16UC1")
        assert (message.encoding, message.step) == ("16UC1", 6)
        values = np.frombuffer(message.data, "<u2").reshape(2, 3)
        assert values.tolist() == [[0, 1000, 1001], [65535, 0, 250]]

    def test_millimetres_are_right_within_half_of_one(self) -> None:
        depth_m = torch.rand((30, 40), generator=torch.Generator().manual_seed(0)) * 65
        message = depth_image(depth_map(depth_m.tolist(), image_hw=(30, 40)), HEADER, encoding="16UC1")
        error_mm = np.frombuffer(message.data, "<u2") - 1000 * depth_m.double().numpy().reshape(-1)
        assert 0.4 < np.abs(error_mm[1:]).max() <= 0.5

    def test_several_images(self) -> None:
        with pytest.raises(ConfigError, match="holds 2"):
            depth_image(DepthMap(torch.ones(2, 2, 3), torch.ones(2, 2, 3) > 0, None, 0, (2, 3), True), HEADER)

    def test_another_encoding(self) -> None:
        with pytest.raises(ConfigError, match="32FC1"):
            depth_image(depth_map(), HEADER, encoding="mono8")


class TestCameraInfo:
    def test_the_first_pixels_centre_is_the_origin(self) -> None:
        info = camera_info(CAMERA, HEADER)
        assert (info.height, info.width) == (2, 3)
        assert info.k.tolist() == [5.0, 0.0, 2.75, 0.0, 4.5, 1.25, 0.0, 0.0, 1.0]
        assert info.p.tolist() == [5.0, 0.0, 2.75, 0.0, 0.0, 4.5, 1.25, 0.0, 0.0, 0.0, 1.0, 0.0]
        assert info.r.tolist() == np.eye(3).reshape(-1).tolist()
        assert (info.distortion_model, info.d.tolist()) == ("plumb_bob", [0.0] * 5)

    def test_ros_projects_points_onto_the_pixels_they_came_from(self) -> None:
        depth = depth_map()
        matrix = camera_info(CAMERA, HEADER).k.reshape(3, 3)
        pixels = depth.points(CAMERA)[0].double().numpy() @ matrix.T
        pixels = pixels[..., :2] / pixels[..., 2:]
        rows, columns = np.meshgrid(range(2), range(3), indexing="ij")
        np.testing.assert_allclose(pixels, np.stack([columns, rows], -1), atol=1e-6)

    def test_of_a_depth_map_in_pixels_of_its_depth(self) -> None:
        known = depth_map(image_hw=(20, 30), focal_length=(1.0, 1.0)).with_intrinsics(CAMERA.resized((20, 30)))
        info = camera_info(known, HEADER)
        assert (info.width, info.height) == (3, 2)
        np.testing.assert_allclose(info.k, camera_info(CAMERA, HEADER).k)

    @pytest.mark.parametrize("focal_length", [None, (1.0, 1.0)])
    def test_of_a_depth_map_whose_camera_nobody_told(self, focal_length: tuple[float, float] | None) -> None:
        with pytest.raises(ConfigError, match="camera 'wrist'") as error:
            camera_info(depth_map(camera="wrist", focal_length=focal_length), HEADER)
        assert ("assumes" in str(error.value)) == (focal_length is not None)


class TestPointCloud:
    def test_valid_points(self) -> None:
        depth = depth_map()
        cloud = point_cloud(depth, CAMERA, HEADER)
        assert (cloud.height, cloud.width, cloud.point_step, cloud.row_step) == (1, 5, 12, 60)
        assert [(each.name, each.offset, each.datatype, each.count) for each in cloud.fields] == [
            ("x", 0, 7, 1),
            ("y", 4, 7, 1),
            ("z", 8, 7, 1),
        ]
        values = np.frombuffer(cloud.data, "<f4").reshape(5, 3)
        np.testing.assert_array_equal(values, depth.points(CAMERA)[depth.valid])

    def test_colours_as_pcl_packs_them(self) -> None:
        cloud = point_cloud(depth_map(), CAMERA, HEADER, image=PHOTO)
        assert (cloud.fields[3].name, cloud.fields[3].offset, cloud.point_step) == ("rgb", 12, 16)
        packed = np.frombuffer(cloud.data, "<u4").reshape(5, 4)[:, 3]
        red, green, blue = PHOTO.reshape(-1, 3)[1:].T.astype(np.uint32)
        np.testing.assert_array_equal(packed, red << 16 | green << 8 | blue)

    def test_without_intrinsics(self) -> None:
        with pytest.raises(ConfigError, match="intrinsics"):
            point_cloud(depth_map(), None, HEADER)

    def test_the_depth_maps_own_camera(self) -> None:
        known = depth_map(focal_length=CAMERA.focal_length).with_intrinsics(CAMERA)
        assert point_cloud(known, None, HEADER).data.tobytes() == point_cloud(known, CAMERA, HEADER).data.tobytes()

    def test_points_are_in_metres_of_the_camera(self) -> None:
        assumed = depth_map(focal_length=(CAMERA.focal_length[0] / 2, CAMERA.focal_length[1] / 2))
        values = np.frombuffer(point_cloud(assumed, CAMERA, HEADER).data, "<f4").reshape(5, 3)
        np.testing.assert_allclose(values[:, 2], 2 * assumed.depth_m[assumed.valid], rtol=1e-6)
        with pytest.raises(ConfigError, match=r"camera 'wrist'.*assumes"):
            point_cloud(assumed.relabelled(camera="wrist"), None, HEADER)


def test_a_photo() -> None:
    message = colour_image(PHOTO[:, ::-1], HEADER)
    assert (message.height, message.width, message.encoding, message.step) == (2, 3, "rgb8", 9)
    assert message.data.tobytes() == PHOTO[:, ::-1].tobytes()
    with pytest.raises(ConfigError, match="uint8 RGB"):
        colour_image(PHOTO.astype(np.float32), HEADER)


@pytest.mark.parametrize("kind", ["depth", "photo", "camera", "cloud"])
def test_another_implementation_reads_the_same(kind: str) -> None:
    """What rosbags serialises, decoded by mcap-ros2-support from the definition that a file would hold."""
    decoder = pytest.importorskip("mcap_ros2.decoder", reason="needs mcap-ros2-support: pip install mcap-ros2-support")
    records = pytest.importorskip("mcap.records", reason="needs mcap: pip install 'spaceclip-plugin[ros]'")
    message = {
        "depth": lambda: depth_image(depth_map(), HEADER),
        "photo": lambda: colour_image(PHOTO, HEADER),
        "camera": lambda: camera_info(CAMERA, HEADER),
        "cloud": lambda: point_cloud(depth_map(), CAMERA, HEADER, image=PHOTO),
    }[kind]()
    name = message.__msgtype__
    definition, _ = typestore().generate_msgdef(name, ros_version=2)
    schema = records.Schema(id=1, name=name, encoding="ros2msg", data=definition.encode())
    decode = decoder.DecoderFactory().decoder_for("cdr", schema)
    assert_same(message, decode(bytes(typestore().serialize_cdr(message, name))))


def assert_same(ours: Any, theirs: Any) -> None:
    for field in (each.name for each in dataclasses.fields(ours) if "ClassVar" not in str(each.type)):
        expected, found = getattr(ours, field), getattr(theirs, field)
        if hasattr(expected, "__msgtype__"):
            assert_same(expected, found)
        elif isinstance(expected, list):
            for one, other in zip(expected, found, strict=True):
                assert_same(one, other)
        elif isinstance(expected, np.ndarray):
            np.testing.assert_array_equal(np.frombuffer(bytes(found), np.uint8) if field == "data" else found, expected)
        else:
            assert found == expected
