from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from spaceclip_plugin.depth.camera import Intrinsics, back_project
from spaceclip_plugin.depth.depth_map import DepthMap
from spaceclip_plugin.errors import ConfigError

CAMERA = Intrinsics(fx_px=8.0, fy_px=8.0, cx_px=4.0, cy_px=3.0, image_hw=(6, 8))


def make(batch: int = 1, **changed: object) -> DepthMap:
    """Depth from 0.5 to 4 m of 6x8 pixels; the upper left corner is invalid."""
    depth_m = torch.linspace(0.5, 4.0, batch * 48).reshape(batch, 6, 8)
    valid = torch.ones(batch, 6, 8, dtype=torch.bool)
    valid[:, :2, :3] = False
    fields = {"camera": "front", "frame": 3, "image_hw": (224, 224), "trained": True}
    return DepthMap(**{"depth_m": depth_m, "valid": valid, **fields, **changed})


def read_ply(path: Path) -> tuple[list[str], np.ndarray]:
    """Header lines and vertices of a PLY, by nothing but the format's definition."""
    header, body = path.read_bytes().split(b"end_header\n", 1)
    lines = header.decode("ascii").splitlines()
    kinds = {"float": "<f4", "uchar": "u1"}
    fields = [(line.split()[2], kinds[line.split()[1]]) for line in lines if line.startswith("property")]
    count = next(int(line.split()[2]) for line in lines if line.startswith("element vertex"))
    vertices = np.frombuffer(body, dtype=fields)
    assert len(vertices) == count
    return lines, vertices


class TestValidation:
    def test_a_good_one_keeps_what_it_was_given(self) -> None:
        depth_m, valid, std = torch.ones(2, 6, 8), torch.ones(2, 6, 8, dtype=torch.bool), torch.zeros(2, 6, 8)
        depth = make(depth_m=depth_m, valid=valid, uncertainty_m=std, camera=None)
        assert depth.depth_m is depth_m
        assert depth.valid is valid
        assert depth.uncertainty_m is std

    def test_the_probability_of_nothing_is_checked_and_goes_along(self) -> None:
        empty = torch.rand(2, 6, 8)
        depth = make(2, empty=empty)
        assert torch.equal(depth[1].empty, empty[1:])
        assert torch.equal(depth.to("cpu").empty, empty)
        assert depth.relabelled(age=3).empty is empty
        for wrong in (torch.rand(2, 6, 7), empty.double(), empty - 2, empty / 0):
            with pytest.raises(ConfigError):
                make(2, empty=wrong)

    def test_it_is_frozen(self) -> None:
        with pytest.raises(dataclasses.FrozenInstanceError):
            make().frame = 4  # type: ignore[misc]

    @pytest.mark.parametrize("shape", [(6, 8), (1, 1, 6, 8), (1, 0, 8), (1, 6, 0)])
    def test_shape(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(ConfigError, match=r"\(B, H, W\)"):
            make(depth_m=torch.ones(shape), valid=torch.ones(shape, dtype=torch.bool))

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int32])
    def test_depth_dtype(self, dtype: torch.dtype) -> None:
        with pytest.raises(ConfigError, match=r"depth_m must have .* torch\.float32"):
            make(depth_m=torch.ones(1, 6, 8, dtype=dtype))

    @pytest.mark.parametrize("valid", [torch.ones(1, 6, 8), torch.ones(2, 6, 8) > 0, torch.ones(6, 8) > 0])
    def test_valid(self, valid: torch.Tensor) -> None:
        with pytest.raises(ConfigError, match=r"valid must have shape \(1, 6, 8\), torch\.bool"):
            make(valid=valid)

    @pytest.mark.parametrize("std", [torch.ones(1, 6, 9), torch.ones(1, 6, 8).double()])
    def test_uncertainty(self, std: torch.Tensor) -> None:
        with pytest.raises(ConfigError, match="uncertainty_m must have"):
            make(uncertainty_m=std)

    def test_devices_must_agree(self) -> None:
        with pytest.raises(ConfigError, match="on meta"):
            make(valid=torch.ones(1, 6, 8, dtype=torch.bool, device="meta"))

    @pytest.mark.parametrize("field", ["depth_m", "uncertainty_m"])
    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -0.5])
    def test_numbers(self, field: str, value: float) -> None:
        bad = torch.ones(1, 6, 8)
        bad[0, 5, 7] = value
        with pytest.raises(ConfigError, match="1 of 48 pixels"):
            make(**{field: bad})

    @pytest.mark.parametrize("value", [math.nan, math.inf])
    def test_invalid_pixels_must_be_finite_too(self, value: float) -> None:
        bad = torch.ones(1, 6, 8)
        bad[0, 0, 0] = value
        with pytest.raises(ConfigError, match="1 of 48 pixels"):
            make(depth_m=bad)

    def test_invalid_pixels_may_be_negative(self) -> None:
        depth_m = torch.ones(1, 6, 8)
        depth_m[0, 0, 0] = -1.0
        assert make(depth_m=depth_m).depth_m[0, 0, 0] == -1.0

    @pytest.mark.parametrize("image_hw", [(0, 4), (224,), (3, 224, 224)])
    def test_image_size(self, image_hw: tuple[int, ...]) -> None:
        with pytest.raises(ConfigError, match="image_hw"):
            make(image_hw=image_hw)


class TestBatch:
    def test_one_image_is_a_batch_of_one(self) -> None:
        depth = make(3, uncertainty_m=torch.arange(3 * 48).reshape(3, 6, 8).float())
        one = depth[1]
        assert len(depth) == 3
        assert len(one) == 1
        assert torch.equal(one.depth_m, depth.depth_m[1:2])
        assert torch.equal(one.valid, depth.valid[1:2])
        assert depth.uncertainty_m is not None
        assert one.uncertainty_m is not None
        assert torch.equal(one.uncertainty_m, depth.uncertainty_m[1:2])
        assert (one.camera, one.frame, one.image_hw, one.trained) == ("front", 3, (224, 224), True)

    def test_memory_is_shared(self) -> None:
        depth = make(2)
        assert depth[1].depth_m.data_ptr() == depth.depth_m[1].data_ptr()

    def test_from_the_end_and_over_all(self) -> None:
        depth = make(3)
        assert torch.equal(depth[-1].depth_m, depth.depth_m[2:])
        assert torch.equal(torch.cat([one.depth_m for one in depth]), depth.depth_m)

    @pytest.mark.parametrize("index", [2, -3])
    def test_no_such_image(self, index: int) -> None:
        with pytest.raises(IndexError, match=f"image {index} of a depth map of 2"):
            make(2)[index]

    def test_an_empty_batch_is_a_depth_map(self) -> None:
        depth = make(0)
        assert len(depth) == 0
        assert list(depth) == []
        assert "no depth" in repr(depth)
        assert depth.points(CAMERA).shape == (0, 6, 8, 3)
        assert depth.colorize().shape == (0, 6, 8, 3)

    def test_to_moves_every_tensor(self) -> None:
        depth = make(2, uncertainty_m=torch.ones(2, 6, 8)).to(torch.device("cpu"))
        assert depth.uncertainty_m is not None
        assert {depth.depth_m.device, depth.valid.device, depth.uncertainty_m.device} == {torch.device("cpu")}
        assert make().to("cpu").uncertainty_m is None


class TestRepr:
    def test_says_what_matters(self) -> None:
        depth_m = torch.full((1, 6, 8), 2.345)
        assert repr(make(depth_m=depth_m, trained=False)) == (
            "DepthMap(1x6x8, median 2.35 m, 88 % valid, camera='front', frame=3, age=0, trained=False)"
        )

    def test_nothing_valid(self) -> None:
        assert "no depth, 0 % valid" in repr(make(valid=torch.zeros(1, 6, 8, dtype=torch.bool)))


class TestPoints:
    def test_intrinsics_of_any_resolution(self) -> None:
        depth = make(2)
        expected = back_project(depth.depth_m, CAMERA)
        torch.testing.assert_close(depth.points(CAMERA), expected)
        torch.testing.assert_close(depth.points(CAMERA.resized((480, 640))), expected)
        assert depth.points(CAMERA).dtype == torch.float32

    @pytest.mark.parametrize("kind", ["tensor", "float32", "array", "read-only array", "lists"])
    def test_a_matrix_is_in_pixels_of_the_depth_map(self, kind: str) -> None:
        matrix = CAMERA.matrix()
        array = matrix.numpy().copy()
        array.flags.writeable = kind == "array"
        given = {"tensor": matrix, "float32": matrix.float(), "lists": matrix.tolist()}.get(kind, array)
        depth = make()
        torch.testing.assert_close(depth.points(given), back_project(depth.depth_m, CAMERA))

    @pytest.mark.parametrize("of_hw", [(12, 16), (480, 640), (224, 224), (3, 4)])
    def test_a_matrix_of_another_size_is_refused(self, of_hw: tuple[int, int], tmp_path: Path) -> None:
        matrix = CAMERA.resized(of_hw).matrix()
        for call in (make().points, lambda k: make().save_ply(tmp_path / "x.ply", k)):
            with pytest.raises(ConfigError, match=rf"cx={of_hw[1] / 2:g}.*6x8"):
                call(matrix)
        assert list(tmp_path.iterdir()) == []
        expected = back_project(make().depth_m, CAMERA)
        torch.testing.assert_close(make().points(Intrinsics.from_matrix(matrix, of_hw)), expected)

    def test_no_camera_is_known(self) -> None:
        with pytest.raises(ConfigError, match="cameras="):
            make().points()

    @pytest.mark.parametrize("bad", ["K", [[1.0, 2.0], [3.0]], np.eye(4), 500.0, {"fx": 1}])
    def test_what_is_not_a_camera(self, bad: object) -> None:
        with pytest.raises(ConfigError, match="3x3"):
            make().points(bad)  # type: ignore[arg-type]


class TestColorize:
    def test_every_image_on_one_range(self) -> None:
        depth = make(2)
        pictures = depth.colorize()
        assert pictures.shape == (2, 6, 8, 3)
        assert pictures.dtype == np.uint8
        assert (pictures[:, :2, :3] == 48).all()
        near, far = pictures[0, 2, 0].astype(int), pictures[1, 5, 7].astype(int)
        assert near[0] > near[2]
        assert far[2] > far[0]

    def test_a_given_range_makes_pictures_comparable(self) -> None:
        depth = make(2)
        together = depth.colorize(depth_range_m=(0.0, 10.0))
        np.testing.assert_array_equal(depth[1].colorize(depth_range_m=(0.0, 10.0))[0], together[1])

    def test_depth_that_still_has_a_gradient(self) -> None:
        assert make(depth_m=torch.ones(1, 6, 8, requires_grad=True)).colorize().shape == (1, 6, 8, 3)


class TestPng16:
    def test_round_trip_within_half_a_millimetre(self, tmp_path: Path) -> None:
        depth = make()
        depth.save_png16(tmp_path / "depth.png")
        with Image.open(tmp_path / "depth.png") as image:
            stored = np.asarray(image).astype(np.float64) / 1000
        valid = depth.valid[0].numpy()
        assert stored.shape == (6, 8)
        assert np.abs(stored - depth.depth_m[0].double().numpy())[valid].max() <= 0.5e-3 + 1e-9
        assert (stored[~valid] == 0).all()

    def test_the_ends_of_the_encoding(self, tmp_path: Path) -> None:
        depth_m = torch.ones(1, 6, 8)
        depth_m[0, 5, :6] = torch.tensor([65.535, 65.5354, 65.536, 1e30, 0.0004, 0.0006])
        make(depth_m=depth_m).save_png16(tmp_path / "depth.png")
        with Image.open(tmp_path / "depth.png") as image:
            assert np.asarray(image)[5].tolist() == [65535, 65535, 0, 0, 0, 1, 1000, 1000]

    def test_nothing_is_replaced_where_that_is_not_wanted(self, tmp_path: Path) -> None:
        depth = make()
        for write in (depth.save_png16, lambda path, **how: depth.save_ply(path, CAMERA, **how)):
            path = tmp_path / "file"
            path.write_bytes(b"ground truth")
            with pytest.raises(ConfigError, match="file"):
                write(path, replace=False)
            assert path.read_bytes() == b"ground truth"
            write(path)
            assert path.read_bytes() != b"ground truth"

    def test_one_image_a_file(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"save_png16 .* depth\[i\]"):
            make(2).save_png16(tmp_path / "depth.png")
        make(2)[1].save_png16(tmp_path / "depth.png")


class TestPly:
    def test_the_valid_points_in_order(self, tmp_path: Path) -> None:
        depth = make()
        depth.save_ply(tmp_path / "points.ply", CAMERA)
        lines, vertices = read_ply(tmp_path / "points.ply")
        assert lines[:2] == ["ply", "format binary_little_endian 1.0"]
        assert vertices.dtype.names == ("x", "y", "z")
        expected = depth.points(CAMERA)[depth.valid].numpy()
        np.testing.assert_array_equal(np.stack([vertices[axis] for axis in "xyz"], -1), expected)

    def test_colours_come_from_the_pixel_centres(self, tmp_path: Path) -> None:
        rows, columns = np.mgrid[:24, :16].astype(np.uint8)
        image = np.stack([rows, columns, np.full_like(rows, 200)], -1)  # 4 and 2 photo pixels to a depth pixel
        depth = make()
        for name, given in (("array.ply", image), ("tensor.ply", torch.from_numpy(image))):
            depth.save_ply(tmp_path / name, CAMERA, image=given)
        _, vertices = read_ply(tmp_path / "array.ply")
        v, u = np.nonzero(depth.valid[0].numpy())
        assert vertices.dtype.names == ("x", "y", "z", "red", "green", "blue")
        np.testing.assert_array_equal(vertices["red"], 4 * v + 2)
        np.testing.assert_array_equal(vertices["green"], 2 * u + 1)
        assert (vertices["blue"] == 200).all()
        assert (tmp_path / "tensor.ply").read_bytes() == (tmp_path / "array.ply").read_bytes()

    def test_nothing_valid_is_an_empty_cloud(self, tmp_path: Path) -> None:
        make(valid=torch.zeros(1, 6, 8, dtype=torch.bool)).save_ply(tmp_path / "points.ply", CAMERA)
        assert len(read_ply(tmp_path / "points.ply")[1]) == 0

    def test_an_untrained_head_is_told_in_the_file(self, tmp_path: Path) -> None:
        for trained in (True, False):
            make(trained=trained).save_ply(tmp_path / "points.ply", CAMERA)
            lines, _ = read_ply(tmp_path / "points.ply")
            assert any("untrained" in line for line in lines) is not trained

    @pytest.mark.parametrize("image", [np.zeros((6, 8)), np.zeros((6, 8, 3)), np.zeros((1, 6, 8, 3), np.uint8)])
    def test_what_is_not_an_image(self, tmp_path: Path, image: np.ndarray) -> None:
        with pytest.raises(ConfigError, match="uint8 RGB"):
            make().save_ply(tmp_path / "points.ply", CAMERA, image=image)
        assert list(tmp_path.iterdir()) == []

    def test_one_image_a_file(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"save_ply .* holds 2; pick one: depth\[i\]"):
            make(2).save_ply(tmp_path / "points.ply", CAMERA)

    def test_a_failure_in_the_middle_leaves_nothing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def write_half(path: Path, content: bytes) -> int:
            with path.open("wb") as handle:
                handle.write(content[: len(content) // 2])
            raise OSError("no space left on device")

        monkeypatch.setattr(Path, "write_bytes", write_half)
        with pytest.raises(OSError, match="no space"):
            make().save_ply(tmp_path / "points.ply", CAMERA)
        assert list(tmp_path.iterdir()) == []


@pytest.mark.real
def test_a_real_room_has_the_size_of_a_room(real_data: Path, tmp_path: Path) -> None:
    with Image.open(real_data / "nyu" / "depth" / "00252.png") as image:
        depth_m = torch.from_numpy(np.asarray(image).astype(np.float32) / 1000)[None]
    rgb = np.asarray(Image.open(real_data / "nyu" / "rgb" / "00252.jpg"))
    camera = Intrinsics(518.8579, 518.8579, 320.0, 240.0, (480, 640))
    depth = DepthMap(depth_m, depth_m > 0, "kitchen", 0, (480, 640), True)
    depth.save_png16(tmp_path / "depth.png")
    with Image.open(tmp_path / "depth.png") as stored, Image.open(real_data / "nyu" / "depth" / "00252.png") as given:
        np.testing.assert_array_equal(np.asarray(stored), np.asarray(given))
    depth.save_ply(tmp_path / "room.ply", camera, image=rgb)
    _, vertices = read_ply(tmp_path / "room.ply")
    width, height = np.ptp(vertices["x"]), np.ptp(vertices["y"])
    assert 2.0 < width < 5.0
    assert 1.5 < height < 4.0


def test_as_transformers_returns_depth() -> None:
    depth = DepthMap(torch.ones(2, 3, 4), torch.ones(2, 3, 4, dtype=torch.bool), None, 0, (3, 4), True)
    assert depth.to_transformers().predicted_depth is depth.depth_m
