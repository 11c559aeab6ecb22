from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from spaceclip_plugin.depth.camera import (
    Intrinsics,
    back_project,
    intrinsics_of_whole_image,
    principal_point_inside,
    questionable,
    same_aspect,
)
from spaceclip_plugin.errors import ConfigError

# Halves and powers of two, so that every number below can be worked out by hand and is exact in floats.
CAMERA = Intrinsics(fx_px=8.0, fy_px=4.0, cx_px=4.0, cy_px=2.0, image_hw=(4, 8))


class TestIntrinsics:
    def test_resize_scales_each_axis_by_its_own_factor(self) -> None:
        assert CAMERA.resized((12, 16)) == Intrinsics(16.0, 12.0, 8.0, 6.0, (12, 16))

    def test_resize_there_and_back_is_the_same_camera(self) -> None:
        assert CAMERA.resized((64, 2)).resized((4, 8)) == CAMERA

    def test_the_centre_of_the_image_stays_the_centre(self) -> None:
        resized = CAMERA.resized((2, 32))
        assert (resized.cx_px, resized.cy_px) == (16.0, 1.0)

    def test_crop_moves_the_principal_point_only(self) -> None:
        assert CAMERA.cropped(1, 3, (2, 4)) == Intrinsics(8.0, 4.0, 1.0, 1.0, (2, 4))

    def test_a_negative_crop_pads(self) -> None:
        assert CAMERA.cropped(-2, -1, (8, 10)) == Intrinsics(8.0, 4.0, 5.0, 4.0, (8, 10))

    def test_matrix_there_and_back(self) -> None:
        assert CAMERA.matrix().tolist() == [[8.0, 0.0, 4.0], [0.0, 4.0, 2.0], [0.0, 0.0, 1.0]]
        assert Intrinsics.from_matrix(CAMERA.matrix(), (4, 8)) == CAMERA
        assert Intrinsics.from_matrix(CAMERA.matrix().float(), (4, 8)) == CAMERA

    @pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, np.int64])
    def test_entries_of_arrays_are_numbers(self, dtype: type) -> None:
        k, size = np.array([8, 4, 4, 2], dtype), np.array([4, 8])
        camera = Intrinsics(*k, image_hw=tuple(size))
        assert camera == CAMERA
        assert repr(camera) == repr(CAMERA)

    def test_field_of_view(self) -> None:
        camera = Intrinsics.from_fovy(math.pi / 2, (480, 640))
        assert camera.fy_px == pytest.approx(240.0)
        assert (camera.fx_px, camera.cx_px, camera.cy_px) == (camera.fy_px, 320.0, 240.0)


class TestRefusals:
    @pytest.mark.parametrize("bad", [0.0, -500.0, math.nan, math.inf])
    def test_focal_lengths(self, bad: float) -> None:
        with pytest.raises(ConfigError, match="positive focal lengths"):
            Intrinsics(bad, 500.0, 320.0, 240.0, (480, 640))
        with pytest.raises(ConfigError, match="positive focal lengths"):
            Intrinsics(500.0, bad, 320.0, 240.0, (480, 640))

    @pytest.mark.parametrize("bad", [math.nan, -math.inf])
    def test_principal_point(self, bad: float) -> None:
        with pytest.raises(ConfigError, match="finite"):
            Intrinsics(500.0, 500.0, bad, 240.0, (480, 640))

    def test_numbers_of_numpy_and_torch(self) -> None:
        """As a calibration's float32 matrix and an image's own shape give them."""
        k = np.array([[500.5, 0, 320.25], [0, 501.5, 240.75], [0, 0, 1]], np.float32)
        camera = Intrinsics(k[0, 0], torch.tensor(k[1, 1]), k[0, 2], k[1, 2], tuple(np.array([480, 640])))
        assert camera == Intrinsics(500.5, 501.5, 320.25, 240.75, (480, 640))
        assert [type(value) for value in (camera.fx_px, camera.cy_px, *camera.image_hw)] == [float, float, int, int]

    @pytest.mark.parametrize("bad", ["500", True, np.bool_(True), np.array([500.0]), None, 1j])
    def test_what_is_no_number(self, bad: Any) -> None:
        with pytest.raises(ConfigError, match="finite"):
            Intrinsics(500.0, 500.0, bad, 240.0, (480, 640))

    @pytest.mark.parametrize("image_hw", [(0, 640), (480, -1), (480.0, 640), (True, 640), (480,), "ab", 480])
    def test_image_size(self, image_hw: tuple[int, int]) -> None:
        with pytest.raises(ConfigError, match="image_hw"):
            Intrinsics(500.0, 500.0, 320.0, 240.0, image_hw)

    @pytest.mark.parametrize("shape", [(3, 4), (4, 4), (9,), (1, 3, 3)])
    def test_matrix_shape(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(ConfigError, match="3x3"):
            Intrinsics.from_matrix(torch.ones(shape), (480, 640))

    @pytest.mark.parametrize(("row", "column", "value"), [(0, 1, 3.0), (1, 0, 1.0), (2, 2, 2.0), (2, 0, 0.5)])
    def test_matrix_of_another_camera(self, row: int, column: int, value: float) -> None:
        matrix = CAMERA.matrix()
        matrix[row, column] = value
        with pytest.raises(ConfigError, match="without skew"):
            Intrinsics.from_matrix(matrix, (4, 8))

    def test_matrix_with_nan(self) -> None:
        with pytest.raises(ConfigError):
            Intrinsics.from_matrix(torch.full((3, 3), math.nan), (4, 8))

    @pytest.mark.parametrize("fovy_rad", [-0.5, 2 * math.pi - 0.1])
    def test_field_of_view_that_cannot_be(self, fovy_rad: float) -> None:
        with pytest.raises(ConfigError):
            Intrinsics.from_fovy(fovy_rad, (480, 640))


class TestBackProject:
    def test_by_hand(self) -> None:
        points = back_project(torch.full((1, 4, 8), 2.0), CAMERA)
        assert points.shape == (1, 4, 8, 3)
        # Pixel (row 0, column 0) has its centre at (0.5, 0.5): x = 2 (0.5 - 4) / 8, y = 2 (0.5 - 2) / 4.
        assert points[0, 0, 0].tolist() == [-0.875, -0.75, 2.0]
        assert points[0, 3, 5].tolist() == [2 * 1.5 / 8, 2 * 1.5 / 4, 2.0]

    def test_x_is_right_and_y_is_down(self) -> None:
        points = back_project(torch.ones(1, 4, 8), CAMERA)[0]
        assert (points[:, 1:, 0] > points[:, :-1, 0]).all()
        assert (points[1:, :, 1] > points[:-1, :, 1]).all()

    def test_z_is_the_depth_and_rays_are_linear_in_it(self) -> None:
        depth = torch.rand(2, 4, 8, generator=torch.Generator().manual_seed(0)) + 0.5
        points = back_project(depth, CAMERA)
        assert torch.equal(points[..., 2], depth)
        torch.testing.assert_close(back_project(3 * depth, CAMERA), 3 * points)

    def test_pixels_of_no_depth_stay_at_the_origin(self) -> None:
        assert torch.equal(back_project(torch.zeros(1, 4, 8), CAMERA), torch.zeros(1, 4, 8, 3))

    def test_projecting_back_gives_the_pixel_centres(self) -> None:
        points = back_project(torch.full((1, 4, 8), 1.7, dtype=torch.float64), CAMERA)[0]
        pixels = points @ CAMERA.matrix().T
        pixels = pixels[..., :2] / pixels[..., 2:]
        rows, columns = torch.meshgrid(torch.arange(4) + 0.5, torch.arange(8) + 0.5, indexing="ij")
        torch.testing.assert_close(pixels, torch.stack([columns, rows], -1).double())

    def test_resizing_image_and_intrinsics_keeps_the_rays(self) -> None:
        """A 3x3 block's middle pixel has the ray of the pixel it came from, whoever does the rescaling."""
        depth = torch.rand(1, 4, 8, generator=torch.Generator().manual_seed(1)) + 0.5
        large = F.interpolate(depth[:, None], scale_factor=3, mode="nearest")[:, 0]
        original = back_project(depth, CAMERA)
        torch.testing.assert_close(back_project(large, CAMERA)[:, 1::3, 1::3], original)
        torch.testing.assert_close(back_project(large, CAMERA.resized((12, 24)))[:, 1::3, 1::3], original)

    def test_stretching_keeps_the_rays_too(self) -> None:
        depth = torch.full((1, 4, 8), 2.0)
        stretched = torch.full((1, 4, 24), 2.0)
        torch.testing.assert_close(back_project(stretched, CAMERA)[:, :, 1::3], back_project(depth, CAMERA))

    def test_cropping_image_and_intrinsics_keeps_the_points(self) -> None:
        depth = torch.rand(1, 4, 8, generator=torch.Generator().manual_seed(2)) + 0.5
        cropped = back_project(depth[:, 1:3, 3:7], CAMERA.cropped(1, 3, (2, 4)))
        torch.testing.assert_close(cropped, back_project(depth, CAMERA)[:, 1:3, 3:7])

    def test_padding_image_and_intrinsics_keeps_the_points(self) -> None:
        depth = torch.full((1, 4, 8), 2.0)
        padded = back_project(F.pad(depth, (1, 2, 3, 4)), CAMERA.cropped(-3, -1, (11, 11)))
        torch.testing.assert_close(padded[:, 3:7, 1:9], back_project(depth, CAMERA))

    def test_a_wall_is_flat_and_as_wide_as_the_field_of_view(self) -> None:
        camera = Intrinsics.from_fovy(math.pi / 2, (480, 640))
        points = back_project(torch.full((1, 480, 640), 3.0), camera)[0]
        assert torch.equal(points[..., 2], torch.full((480, 640), 3.0))
        height = points[-1, 0, 1] - points[0, 0, 1]
        assert height.item() == pytest.approx(6.0 * 479 / 480, rel=1e-5)


CALIBRATED = {  # of data sets and devices: all are what a user may hand in without a question
    "nyu": Intrinsics(518.8579, 519.4696, 325.5824, 253.7362, (480, 640)),
    "kitti": Intrinsics(721.5377, 721.5377, 609.5593, 172.854, (375, 1242)),
    "tum-fr1": Intrinsics(517.3, 516.5, 318.6, 255.3, (480, 640)),
    "euroc": Intrinsics(458.654, 457.296, 367.215, 248.375, (480, 752)),
    "phone": Intrinsics(1599.0, 1599.0, 960.0, 719.5, (1440, 1920)),
    "nuscenes": Intrinsics(1266.4, 1266.4, 816.3, 491.5, (900, 1600)),
}


class TestQuestions:
    @pytest.mark.parametrize("name", CALIBRATED)
    def test_real_cameras_are_not_questioned(self, name: str) -> None:
        camera = CALIBRATED[name]
        assert questionable(camera) is None
        assert principal_point_inside(camera)
        assert intrinsics_of_whole_image(camera.matrix(), camera.image_hw) == camera

    @pytest.mark.parametrize("image_hw", [(240, 320), (960, 1280), (1080, 1920), (224, 224), (720, 1280)])
    def test_a_camera_under_another_size_is(self, image_hw: tuple[int, int]) -> None:
        nyu = CALIBRATED["nyu"]
        said = questionable(Intrinsics(nyu.fx_px, nyu.fy_px, nyu.cx_px, nyu.cy_px, image_hw))
        assert said is not None
        assert all(part in said for part in ("cx=325.582", "cy=253.736", f"{image_hw[0]}x{image_hw[1]}", "507x651"))

    def test_fractions_of_the_image_are(self) -> None:
        said = questionable(Intrinsics(0.81, 1.08, 0.5, 0.5, (480, 640)))
        assert said is not None
        assert "fractions" in said

    @pytest.mark.parametrize(
        ("cx_px", "cy_px", "asked"),
        [(240, 240, False), (239, 240, True), (401, 240, True), (320, 301, True), (320, 180, False)],
    )
    def test_an_eighth_of_a_side_is_the_limit(self, cx_px: float, cy_px: float, asked: bool) -> None:
        assert (questionable(Intrinsics(500.0, 500.0, cx_px, cy_px, (480, 640))) is not None) is asked

    @pytest.mark.parametrize(("focal_px", "asked"), [(20.0, True), (100.0, False), (2000.0, False), (4000.0, True)])
    def test_views_of_no_usual_lens_are(self, focal_px: float, asked: bool) -> None:
        said = questionable(Intrinsics(focal_px, focal_px, 320.0, 240.0, (480, 640)))
        assert (said is not None) is asked
        assert said is None or f"fx={focal_px:g}" in said

    def test_field_of_view(self) -> None:
        assert Intrinsics(320.0, 240.0, 320.0, 240.0, (480, 640)).field_of_view_deg() == (90.0, 90.0)
        off_centre = Intrinsics(320.0, 240.0, 0.0, 480.0, (480, 640)).field_of_view_deg()
        assert off_centre == pytest.approx((math.degrees(math.atan(2)), math.degrees(math.atan(2))))


class TestMatrixWithoutASize:
    @pytest.mark.parametrize("of_hw", [(256, 256), (480, 640), (112, 112), (384, 384), (336, 336), (192, 256)])
    def test_one_of_another_size_is_refused(self, of_hw: tuple[int, int]) -> None:
        matrix = Intrinsics.from_fovy(1.0, of_hw).matrix()
        with pytest.raises(ConfigError, match=rf"cx={of_hw[1] / 2:g}, cy={of_hw[0] / 2:g}.*224x224.*image_hw=\(H, W\)"):
            intrinsics_of_whole_image(matrix, (224, 224))

    def test_one_of_fractions_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="fractions"):
            intrinsics_of_whole_image([[0.8, 0, 0.5], [0, 0.8, 0.5], [0, 0, 1]], (224, 224))

    def test_opencvs_middle_of_a_small_image_passes(self) -> None:
        assert intrinsics_of_whole_image([[8, 0, 3.5], [0, 8, 2.5], [0, 0, 1]], (6, 8)).cx_px == 3.5


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ((480, 640), (240, 320), True),
        ((45, 61), (48, 64), True),
        ((48, 64), (45, 61), True),
        ((450, 600), (45, 61), True),
        ((480, 640), (1080, 1920), False),
        ((480, 640), (640, 480), False),
        ((480, 640), (483, 640), False),
        ((480, 640), (481, 640), True),
        ((224, 224), (480, 640), False),
    ],
)
def test_sizes_of_one_view(one: tuple[int, int], other: tuple[int, int], same: bool) -> None:
    assert same_aspect(one, other) is same_aspect(other, one) is same
