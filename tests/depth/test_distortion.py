"""Distorted photos made pinhole ones: held to rays, drawn through OpenCV and through its polynomials written again."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
import torch

from spaceclip_plugin import Intrinsics
from spaceclip_plugin.depth import DistortedCamera, back_project
from spaceclip_plugin.errors import ConfigError

cv2 = pytest.importorskip("cv2", reason="needs OpenCV: pip install 'spaceclip-plugin[camera]'")

HW = (240, 320)
LENSES = {
    "barrel-4": ("brown-conrady", (-0.28, 0.07, 0.001, -0.0007)),
    "barrel-5": ("brown-conrady", (-0.32, 0.12, 0.0004, 0.0011, -0.02)),
    "pincushion": ("brown-conrady", (0.2, 0.05, 0.0, 0.001, 0.01)),
    "rational": ("brown-conrady", (0.4, -0.2, 0.0005, -0.0003, 0.01, 0.7, -0.15, 0.02)),
    "prism": ("brown-conrady", (-0.1, 0.02, 0.001, 0.001, 0.0, 0.1, 0.0, 0.0, 0.004, -0.001, 0.003, 0.001)),
    "tilted": ("brown-conrady", (-0.1, 0.02, 0.001, 0.001, 0.0, 0.1, 0.0, 0.0, 0.004, 0.0, 0.003, 0.0, 0.02, -0.03)),
    "fisheye": ("fisheye", (0.03, -0.012, 0.004, -0.001)),
    "equidistant": ("fisheye", (0.0, 0.0, 0.0, 0.0)),
}


def lens(name: str, keep: str | float = "valid") -> DistortedCamera:
    model, coefficients = LENSES[name]
    focal = 120.0 if model == "fisheye" else 190.0
    return DistortedCamera(focal, focal * 1.01, 163.2, 117.6, HW, model, coefficients, keep)


def distorted(camera: DistortedCamera, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(…, 2) pixels, corner convention, of rays x/z, y/z: the formulas of OpenCV's manual."""
    r2, d = x * x + y * y, np.zeros(14)
    d[: len(camera.coefficients)] = camera.coefficients
    if camera.model == "fisheye":
        angle = np.arctan(np.sqrt(r2))
        scale = (angle + sum(d[i] * angle ** (2 * i + 3) for i in range(4))) / np.sqrt(r2)
        u, v = x * scale, y * scale
    else:
        k1, k2, p1, p2, k3, k4, k5, k6, s1, s2, s3, s4, tx, ty = d
        radial = (1 + k1 * r2 + k2 * r2**2 + k3 * r2**3) / (1 + k4 * r2 + k5 * r2**2 + k6 * r2**3)
        u = x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x) + s1 * r2 + s2 * r2**2
        v = y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y + s3 * r2 + s4 * r2**2
        about_x = np.array([[1, 0, 0], [0, math.cos(tx), math.sin(tx)], [0, -math.sin(tx), math.cos(tx)]])
        about_y = np.array([[math.cos(ty), 0, -math.sin(ty)], [0, 1, 0], [math.sin(ty), 0, math.cos(ty)]])
        turn = about_y @ about_x
        onto = np.array([[turn[2, 2], 0, -turn[0, 2]], [0, turn[2, 2], -turn[1, 2]], [0, 0, 1]]) @ turn
        u, v, w = np.moveaxis(np.stack([u, v, np.ones_like(u)], -1) @ onto.T, -1, 0)
        u, v = u / w, v / w
    return np.stack([u * camera.fx_px + camera.cx_px, v * camera.fy_px + camera.cy_px], -1)


def by_opencv(camera: DistortedCamera, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The same of OpenCV's own projection, whose first pixel has its centre at (0, 0)."""
    k = np.array([[camera.fx_px, 0, camera.cx_px - 0.5], [0, camera.fy_px, camera.cy_px - 0.5], [0, 0, 1.0]])
    points = np.stack([x, y, np.ones_like(x)], -1).reshape(-1, 1, 3)
    project = cv2.fisheye.projectPoints if camera.model == "fisheye" else cv2.projectPoints
    return project(points, np.zeros(3), np.zeros(3), k, np.array(camera.coefficients))[0].reshape(*x.shape, 2) + 0.5


def rays(camera: Intrinsics) -> tuple[np.ndarray, np.ndarray]:
    height, width = camera.image_hw
    x = (np.arange(width) + 0.5 - camera.cx_px) / camera.fx_px
    y = (np.arange(height) + 0.5 - camera.cy_px) / camera.fy_px
    return tuple(np.meshgrid(x, y))


def spots(places: np.ndarray, hw: tuple[int, int], sigma: float = 1.0) -> np.ndarray:
    """A photo with a bright spot around each place (N, 2)."""
    v, u = np.mgrid[: hw[0], : hw[1]] + 0.5
    light = sum(np.exp(-((u - x) ** 2 + (v - y) ** 2) / (2 * sigma**2)) for x, y in places)
    return np.repeat((np.clip(light, 0, 1) * 250).round().astype(np.uint8)[..., None], 3, axis=-1)


def centroid(photo: np.ndarray, near: np.ndarray, reach: float = 6.0) -> np.ndarray:
    """Where the spot is, in the corner convention."""
    v, u = np.mgrid[: photo.shape[0], : photo.shape[1]] + 0.5
    light = photo[..., 0] * (np.hypot(u - near[0], v - near[1]) < reach)
    return np.array([(u * light).sum(), (v * light).sum()]) / light.sum()


@pytest.mark.parametrize("name", LENSES)
@pytest.mark.parametrize("project", [distorted, by_opencv])
def test_a_grid_comes_out_straight(name: str, project: object) -> None:
    camera = lens(name)
    pinhole = camera.intrinsics
    u, v = (grid.reshape(-1) for grid in np.meshgrid(np.linspace(52, 268, 4), np.linspace(45, 195, 3)))
    seen = project(camera, (u - pinhole.cx_px) / pinhole.fx_px, (v - pinhole.cy_px) / pinhole.fy_px)
    found = camera.undistorted(spots(seen, HW))
    expected = np.stack([u, v], -1)
    off = np.array([centroid(found, place) - place for place in expected])
    assert np.abs(off).max() < 0.1


@pytest.mark.parametrize("name", LENSES)
@pytest.mark.parametrize("keep", ["valid", 40.0])
def test_every_pixel_shows_its_ray(name: str, keep: str | float) -> None:
    """Photos whose colour is their place, red the column and green the row."""
    camera = lens(name, keep)
    v, u = np.mgrid[: HW[0], : HW[1]] + 0.5
    photo = np.stack([u * 0.75, v * 0.75, 0 * u], -1)
    found = camera.undistorted(photo.round().astype(np.uint8))[..., :2] / 0.75
    expected = distorted(camera, *rays(camera.intrinsics))
    inside = ((expected > 1) & (expected < np.array(HW[::-1]) - 1)).all(-1)
    assert np.abs(found - expected)[inside].max() < 1.5  # a step of the colour is 1.3 pixels
    assert np.abs((found - expected)[inside].mean(0)).max() < 0.05  # the half pixel would show here


@pytest.mark.parametrize("name", LENSES)
def test_the_largest_pinhole_without_unseen_pixels(name: str) -> None:
    camera = lens(name)
    assert camera.valid.shape == HW
    assert camera.valid.all()
    pinhole = camera.intrinsics
    larger = Intrinsics(pinhole.fx_px / 1.01, pinhole.fy_px / 1.01, pinhole.cx_px, pinhole.cy_px, HW)
    seen = distorted(camera, *rays(larger))
    widest = max(larger.field_of_view_deg())
    assert widest > 120 or not ((seen >= 0.5) & (seen <= np.array(HW[::-1]) - 0.5)).all()


def test_without_distortion_nothing_changes() -> None:
    photo = np.random.default_rng(0).integers(0, 256, (*HW, 3), dtype=np.uint8)
    camera = DistortedCamera(190.0, 190.0, 163.2, 117.6, HW, "brown-conrady", (0.0,) * 5)
    assert camera.intrinsics.fx_px == pytest.approx(190, abs=1e-5)
    assert (camera.undistorted(photo) == photo).all()


class TestWhatIsKept:
    @pytest.mark.parametrize("name", ["prism", "pincushion", "tilted"])
    def test_all_of_the_image_has_a_place(self, name: str) -> None:
        camera = lens(name, "all")
        there = camera.redistorted(np.ones(HW, np.float32)) > 0
        assert there[1:-1, 1:-1].all()
        assert not camera.valid.all()
        black = camera.undistorted(np.full((*HW, 3), 255, np.uint8))
        assert ((black == 0).all(-1) == ~camera.valid).all()

    @pytest.mark.parametrize("degrees", [30, 60.5, 120])
    def test_a_field_of_view(self, degrees: float) -> None:
        camera = lens("fisheye", degrees)
        assert camera.intrinsics.field_of_view_deg()[1] == pytest.approx(degrees, abs=1e-6)
        seen = distorted(camera, *rays(camera.intrinsics))
        expected = ((seen >= 0) & (seen <= np.array(HW[::-1]))).all(-1)
        assert (camera.valid == expected).mean() > 0.999

    @pytest.mark.parametrize("keep", ["some", 0, 121, 180, math.nan, None, True, (90,)])
    def test_what_is_no_field(self, keep: object) -> None:
        with pytest.raises(ConfigError, match="keep"):
            lens("fisheye", keep)

    def test_all_of_a_narrower_fisheye(self) -> None:
        with pytest.raises(ConfigError, match="160 degrees; at most 150"):
            _ = DistortedCamera(140.0, 140.0, 160.0, 120.0, HW, "fisheye", (0.0,) * 4, "all").intrinsics

    def test_a_fisheye_of_more_than_a_half_space(self) -> None:
        camera = DistortedCamera(60.0, 60.0, 160.0, 120.0, HW, "fisheye", (0.0,) * 4)  # 306 degrees wide
        assert max(camera.intrinsics.field_of_view_deg()) == pytest.approx(120)
        assert camera.valid.all()
        with pytest.raises(ConfigError, match="90 degrees from its optical axis"):
            _ = DistortedCamera(60.0, 60.0, 160.0, 120.0, HW, "fisheye", (0.0,) * 4, "all").intrinsics


class TestFolds:
    """With k1 = -1 alone a ray at radius r comes out at r - r^3, furthest at r = 0.577: 30 degrees."""

    FOLDED = (190.0, 190.0, 160.0, 120.0, HW, "brown-conrady", (-1.0, 0.0, 0.0, 0.0))

    @pytest.mark.parametrize("keep", ["valid", "all", 75])
    def test_a_field_beyond_the_fold(self, keep: str | float) -> None:
        with pytest.raises(ConfigError, match=r"30\.0 degrees|29\.9 degrees"):
            _ = DistortedCamera(*self.FOLDED, keep).intrinsics

    def test_a_field_within_it(self) -> None:
        camera = DistortedCamera(*self.FOLDED, 40)
        x, y = rays(camera.intrinsics)
        assert (camera.valid == (np.hypot(x, y) < math.sqrt(1 / 3))).mean() > 0.99

    def test_a_telescope_with_these_coefficients_is_fine(self) -> None:
        assert DistortedCamera(1900.0, *self.FOLDED[1:]).__class__  # made, whatever its coefficients
        assert DistortedCamera(1900.0, 1900.0, *self.FOLDED[2:]).valid.all()

    @pytest.mark.parametrize("coefficients", [(1e300, 0, 0, 0), (0, -1e300, 0, 0), (0, 0, 5, 0)])
    def test_absurd_coefficients(self, coefficients: tuple[float, ...]) -> None:
        with pytest.raises(ConfigError, match="folds"):
            _ = DistortedCamera(*self.FOLDED[:-1], coefficients).intrinsics


class TestSizes:
    @pytest.mark.parametrize("hw", [(480, 640), (120, 160), (241, 321)])
    def test_a_photo_of_another_resolution(self, hw: tuple[int, int]) -> None:
        camera = lens("barrel-5")
        pinhole = camera.intrinsics.resized(hw)
        u, v = np.array([0.25, 0.8]) * hw[1], np.array([0.3, 0.75]) * hw[0]
        at = distorted(camera, (u - pinhole.cx_px) / pinhole.fx_px, (v - pinhole.cy_px) / pinhole.fy_px)
        found = camera.undistorted(spots(at * [hw[1] / HW[1], hw[0] / HW[0]], hw))
        assert found.shape == (*hw, 3)
        off = [centroid(found, np.array(place)) - place for place in zip(u, v, strict=True)]
        assert np.abs(off).max() < 0.1
        ours, its = camera.resized(hw).intrinsics, pinhole
        assert ours.fx_px == pytest.approx(its.fx_px, rel=1e-6)

    @pytest.mark.parametrize("hw", [(320, 240), (240, 300), (100, 100)])
    def test_a_photo_of_another_aspect(self, hw: tuple[int, int]) -> None:
        with pytest.raises(ConfigError, match="240x320"):
            lens("barrel-5").undistorted(np.zeros((*hw, 3), np.uint8))

    @pytest.mark.parametrize("image", [np.zeros(HW, np.uint8), np.zeros((*HW, 3), np.float32), np.zeros((*HW, 4))])
    def test_what_is_no_photo(self, image: np.ndarray) -> None:
        with pytest.raises(ConfigError, match="uint8"):
            lens("barrel-5").undistorted(image)

    def test_maps_are_made_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        camera, photo = lens("barrel-5"), np.zeros((*HW, 3), np.uint8)
        double = np.zeros((480, 640, 3), np.uint8)
        camera.undistorted(photo)
        camera.undistorted(double)
        monkeypatch.setattr(cv2, "initUndistortRectifyMap", lambda *_: pytest.fail("made again"))
        camera.undistorted(photo)
        camera.undistorted(double)

    def test_a_view_and_a_tensor(self) -> None:
        camera = lens("fisheye")
        photo = np.random.default_rng(0).integers(0, 256, (*HW, 3), dtype=np.uint8)
        expected = camera.undistorted(photo)
        assert (camera.undistorted(torch.from_numpy(photo)) == expected).all()
        assert (camera.undistorted(photo[:, ::-1].copy()[:, ::-1]) == expected).all()

    def test_fine_texture_does_not_alias(self) -> None:
        """Where the middle shrinks to a third a chessboard of single pixels is grey."""
        camera = DistortedCamera(300.0, 300.0, 160.0, 120.0, HW, "fisheye", (0.0,) * 4, 118)
        board = np.repeat((np.indices(HW).sum(0) % 2 * 255).astype(np.uint8)[..., None], 3, axis=-1)
        assert np.ptp(camera.undistorted(board)[115:125, 155:165].astype(int)) < 90


class TestTheWayBack:
    @pytest.mark.parametrize("name", LENSES)
    @pytest.mark.parametrize("hw", [HW, (480, 640)])
    def test_a_slanted_plane_keeps_its_depth(self, name: str, hw: tuple[int, int]) -> None:
        """n . x = 1 has depth 1 / (n . ray) at whatever pixel shows the ray."""
        camera = lens(name)
        normal = np.array([0.06, -0.09, 0.7])

        def plane(x: np.ndarray, y: np.ndarray) -> np.ndarray:
            return 1 / (normal[0] * x + normal[1] * y + normal[2])

        depth = plane(*rays(camera.intrinsics.resized(hw)))
        points = back_project(torch.from_numpy(depth)[None], camera.intrinsics)[0].numpy()
        assert np.allclose(points @ normal, 1)
        back = camera.redistorted(torch.from_numpy(depth))
        assert (back.shape, back.dtype) == (HW, np.float32)
        x, y = (axis[20:-20:7, 20:-20:7] for axis in rays(camera.intrinsics))
        u, v = np.floor(np.moveaxis(distorted(camera, x, y), -1, 0)).astype(int)
        assert (back[v, u] > 0).all()
        np.testing.assert_allclose(back[v, u], plane(x, y), rtol=0.03)  # of a pixel or two beside

    def test_what_is_not_kept_is_unknown(self) -> None:
        back = lens("fisheye", 40).redistorted(np.full(HW, 2.0))
        assert set(np.unique(back)) == {0.0, 2.0}
        assert back[0, 0] == 0
        assert back[117, 163] == 2

    @pytest.mark.parametrize("depth", [np.ones((1, *HW)), np.ones(HW, int), np.ones((320, 240)), np.ones((0, 0))])
    def test_what_is_no_depth_of_it(self, depth: np.ndarray) -> None:
        with pytest.raises(ConfigError, match="240x320"):
            lens("fisheye").redistorted(depth)


class TestWhatIsRefused:
    @pytest.mark.parametrize("coefficients", [(), (0.1,), (0.1, 0.1), (0.1,) * 6, (0.1,) * 15])
    def test_another_count_of_brown_conrady(self, coefficients: tuple[float, ...]) -> None:
        with pytest.raises(ConfigError, match="4, 5, 8, 12 or 14"):
            DistortedCamera(190.0, 190.0, 160.0, 120.0, HW, "brown-conrady", coefficients)

    @pytest.mark.parametrize("coefficients", [(), (0.1,), (0.1,) * 5])
    def test_another_count_of_fisheye(self, coefficients: tuple[float, ...]) -> None:
        with pytest.raises(ConfigError, match="fisheye distortion takes 4 "):
            DistortedCamera(190.0, 190.0, 160.0, 120.0, HW, "fisheye", coefficients)

    @pytest.mark.parametrize("value", [math.nan, math.inf, "0.1", None, True])
    def test_what_is_no_coefficient(self, value: object) -> None:
        with pytest.raises(ConfigError, match="finite"):
            DistortedCamera(190.0, 190.0, 160.0, 120.0, HW, "fisheye", (0.0, 0.0, 0.0, value))

    @pytest.mark.parametrize("model", ["plumb_bob", "", None])
    def test_an_unknown_model(self, model: object) -> None:
        with pytest.raises(ConfigError, match="brown-conrady, fisheye"):
            DistortedCamera(190.0, 190.0, 160.0, 120.0, HW, model, (0.0,) * 4)

    @pytest.mark.parametrize("hw", [(0, 320), (240, 40_000), (240.0, 320.0), None])
    def test_what_is_no_size(self, hw: object) -> None:
        with pytest.raises(ConfigError, match="image_hw"):
            DistortedCamera(190.0, 190.0, 160.0, 120.0, hw, "fisheye", (0.0,) * 4)

    def test_one_pixel(self) -> None:
        camera = DistortedCamera(2.0, 2.0, 0.5, 0.5, (1, 1), "fisheye", (0.0,) * 4)
        assert camera.undistorted(np.full((1, 1, 3), 7, np.uint8)).tolist() == [[[7, 7, 7]]]
        assert camera.redistorted(np.full((1, 1), 7.0)).tolist() == [[7.0]]

    def test_a_principal_point_outside(self) -> None:
        with pytest.raises(ConfigError, match="cx=400"):
            DistortedCamera(190.0, 190.0, 400.0, 120.0, HW, "fisheye", (0.0,) * 4)

    @pytest.mark.parametrize("field", [0, 1, 2, 3])
    def test_numbers_that_are_none(self, field: int) -> None:
        numbers: list[object] = [190.0, 190.0, 160.0, 120.0]
        numbers[field] = math.nan
        with pytest.raises(ConfigError, match="finite"):
            DistortedCamera(*numbers, HW, "fisheye", (0.0,) * 4)

    def test_without_opencv_the_extra_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "cv2", None)
        camera = lens("barrel-5")
        for attempt in (
            lambda: camera.intrinsics,
            lambda: camera.valid,
            lambda: camera.undistorted(np.zeros((*HW, 3), np.uint8)),
        ):
            with pytest.raises(ConfigError, match=r"brown-conrady.*-0\.32.*pip install 'spaceclip-plugin\[camera\]'"):
                attempt()


class TestFromOpencv:
    K = np.array([[190.0, 0, 159.5], [0, 191.0, 119.5], [0, 0, 1]])

    @pytest.mark.parametrize("shape", [(5,), (1, 5), (5, 1)])
    def test_the_half_pixel_is_added(self, shape: tuple[int, ...]) -> None:
        found = DistortedCamera.from_opencv(self.K, np.array([-0.1, 0.01, 0, 0, 0]).reshape(shape), HW)
        assert found == DistortedCamera(190.0, 191.0, 160.0, 120.0, HW, "brown-conrady", (-0.1, 0.01, 0.0, 0.0, 0.0))

    def test_agrees_with_opencvs_own_undistortion(self) -> None:
        d = np.array([-0.1, 0.01, 0, 0, 0])
        camera = DistortedCamera.from_opencv(self.K, d, HW, keep=70)
        photo = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (*HW, 3), dtype=np.uint8), (0, 0), 3)
        k = camera.intrinsics.matrix().numpy() - np.array([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]])
        theirs = cv2.undistort(photo, self.K, d, None, k)
        difference = np.abs(camera.undistorted(photo).astype(int) - theirs)[camera.valid]
        assert np.quantile(difference, 0.99) <= 1

    @pytest.mark.parametrize("matrix", [np.eye(2), "K", [[1, 2], [3]], np.full((3, 3), np.nan)])
    def test_what_is_no_matrix(self, matrix: object) -> None:
        with pytest.raises(ConfigError, match="intrinsics"):
            DistortedCamera.from_opencv(matrix, [0.0] * 4, HW)
