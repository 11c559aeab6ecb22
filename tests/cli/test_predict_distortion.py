"""`spaceclip predict` with a lens that distorts: everything written is of the undistorted photo."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from photo_world import Run, head, no_host, photo, predict, predicted, rays
from PIL import Image

from spaceclip_plugin.data.files.orientation import as_stored, upright, upright_hw, upright_intrinsics
from spaceclip_plugin.depth import DistortedCamera, Intrinsics

__all__ = ["head", "no_host", "predict"]  # fixtures

HW = (96, 128)
BARREL = (-0.28, 0.07, 0.002, -0.001, 0.0)
YAML = """image_width: 128
image_height: 96
camera_matrix: {rows: 3, cols: 3, data: [76.0, 0, 65.5, 0, 77.0, 46.5, 0, 0, 1]}
distortion_model: plumb_bob
distortion_coefficients: {rows: 1, cols: 5, data: [-0.28, 0.07, 0.002, -0.001, 0.0]}
"""
LENS = DistortedCamera(76.0, 77.0, 66.0, 47.0, HW, "brown-conrady", BARREL)


@pytest.fixture
def calibration(tmp_path: Path) -> Path:
    file = tmp_path / "camera.yaml"
    file.write_text(YAML)
    return file


@pytest.fixture
def opencv() -> None:
    pytest.importorskip("cv2", reason="needs OpenCV: pip install 'spaceclip-plugin[camera]'")


def expected_rays(camera: Intrinsics) -> np.ndarray:
    height, width = camera.image_hw
    x = (np.arange(width) + 0.5 - camera.cx_px) / camera.fx_px
    y = (np.arange(height) + 0.5 - camera.cy_px) / camera.fy_px
    return np.stack(np.meshgrid(x, y), -1)


def pixels(file: object) -> np.ndarray:
    with Image.open(str(file)) as image:
        return np.asarray(image.convert("RGB"))


@pytest.mark.usefixtures("opencv")
class TestUndistorted:
    @pytest.mark.parametrize("hw", [HW, (48, 64), (192, 256)])
    def test_photo_points_and_camera_are_of_the_undistorted_photo(
        self, predict: Run, tmp_path: Path, calibration: Path, hw: tuple[int, int]
    ) -> None:
        shot = photo(tmp_path / "a.png", hw)
        code, out, _ = predict(shot, "--intrinsics", calibration, "--out", tmp_path / "out", "--json")
        assert code == 0
        entry = predicted(out)["a.png"]
        camera = LENS.intrinsics.resized(hw)
        assert entry["intrinsics"]["fx"] == pytest.approx(camera.fx_px)
        assert camera.fx_px / hw[1] != pytest.approx(76 / 128)
        files = entry["files"]
        np.testing.assert_allclose(rays(Path(files["points"]), hw), expected_rays(camera), atol=1e-5)
        assert (pixels(files["undistorted"]) == LENS.undistorted(pixels(shot))).all()
        assert (pixels(files["undistorted"]) != pixels(shot)).any()

    def test_the_tower_sees_the_undistorted_photo(self, predict: Run, tmp_path: Path, calibration: Path) -> None:
        shot = photo(tmp_path / "a.png", HW)
        assert predict(shot, "--intrinsics", calibration, "--out", tmp_path / "one")[0] == 0
        plain = ["--intrinsics", "60,60,66,47", "--out", tmp_path / "two"]
        assert predict(tmp_path / "one" / "a_undistorted.png", *plain)[0] == 0
        ours, theirs = tmp_path / "one" / "a_depth.png", tmp_path / "two" / "a_undistorted_depth.png"
        assert ours.read_bytes() == theirs.read_bytes()

    def test_the_output_says_so(self, predict: Run, tmp_path: Path, calibration: Path) -> None:
        shot = photo(tmp_path / "a.png", HW)
        code, out, _ = predict(shot, "--intrinsics", calibration, "--out", tmp_path / "out")
        assert code == 0
        assert "undistorted photo" in out
        assert str(tmp_path / "out" / "a_undistorted.png") in out

    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_a_photo_that_exif_turns(self, predict: Run, tmp_path: Path, calibration: Path, orientation: int) -> None:
        """The sensor's pixels are distorted as calibrated; a decentred lens shows if they are turned first."""
        stored = as_stored(pixels(photo(tmp_path / "a.png", upright_hw(HW, orientation))), orientation)
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(stored).save(tmp_path / "b.png", exif=exif)
        code, out, _ = predict(tmp_path / "b.png", "--intrinsics", calibration, "--out", tmp_path / "out", "--json")
        assert code == 0
        files = predicted(out)["b.png"]["files"]
        camera = upright_intrinsics(LENS.intrinsics, orientation)
        np.testing.assert_allclose(rays(Path(files["points"]), camera.image_hw), expected_rays(camera), atol=1e-5)
        assert (pixels(files["undistorted"]) == upright(LENS.undistorted(stored), orientation)).all()

    def test_a_calibration_of_the_upright_photo(self, predict: Run, tmp_path: Path, calibration: Path) -> None:
        shot = photo(tmp_path / "a.png", (128, 96), orientation=6)  # upright: 96x128
        code, out, _ = predict(shot, "--intrinsics", calibration, "--out", tmp_path / "out", "--json")
        assert code == 0
        seen = upright(pixels(shot), 6)
        files = predicted(out)["a.png"]["files"]
        assert (pixels(files["undistorted"]) == LENS.undistorted(seen)).all()
        np.testing.assert_allclose(rays(Path(files["points"]), HW), expected_rays(LENS.intrinsics), atol=1e-5)

    def test_a_photo_of_another_aspect_does_not_stop_the_others(
        self, predict: Run, tmp_path: Path, calibration: Path
    ) -> None:
        shots = [photo(tmp_path / "a.png", HW), photo(tmp_path / "b.png", (60, 60))]
        code, out, _ = predict(*shots, "--intrinsics", calibration, "--out", tmp_path / "out", "--json")
        assert code == 1
        assert list(predicted(out)) == ["a.png"]
        assert "96x128" in json.loads(out)["failed"][0]["reason"]

    def test_nothing_is_overwritten_and_a_second_run_takes_the_same_photos(
        self, predict: Run, tmp_path: Path, calibration: Path
    ) -> None:
        photo(tmp_path / "photos" / "a.png", HW)
        command = [tmp_path / "photos", "--intrinsics", calibration, "--out", tmp_path / "photos"]
        assert predict(*command)[0] == 0
        assert predict(*command)[0] == 1
        for name in ("a_depth.png", "a_picture.png", "a.ply"):
            (tmp_path / "photos" / name).rename(tmp_path / name)
        code, _, err = predict(*command)
        assert code == 1
        assert "a_undistorted" in err
        for name in ("a_depth.png", "a_picture.png", "a.ply"):
            (tmp_path / name).rename(tmp_path / "photos" / name)
        code, out, _ = predict(*command, "--overwrite", "--json")
        assert code == 0
        assert list(predicted(out)) == ["a.png"]

    @pytest.mark.usefixtures("no_host")
    @pytest.mark.parametrize(
        ("old", "new", "named"), [("-0.28, 0.07", "-2.5, 0.0", "folds"), ("-0.28,", ".nan,", "finite")]
    )
    def test_a_calibration_that_cannot_be_undone(
        self, predict: Run, tmp_path: Path, calibration: Path, old: str, new: str, named: str
    ) -> None:
        calibration.write_text(YAML.replace(old, new))
        shot = photo(tmp_path / "a.png", HW)
        code, _, err = predict(shot, "--intrinsics", calibration, "--out", tmp_path / "out")
        assert code == 1
        assert named in err
        assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("no_host")
def test_without_opencv_the_extra_is_named_before_the_host_is_loaded(
    predict: Run, tmp_path: Path, calibration: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    shot = photo(tmp_path / "a.png", HW)
    code, _, err = predict(shot, "--intrinsics", calibration, "--out", tmp_path / "out")
    assert code == 1
    assert "pip install 'spaceclip-plugin[camera]'" in err
    assert not (tmp_path / "out").exists()


def test_without_distortion_opencv_is_not_needed(
    predict: Run, tmp_path: Path, calibration: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    calibration.write_text(YAML.replace("[-0.28, 0.07, 0.002, -0.001, 0.0]", "[0, 0, 0, 0, 0]"))
    shot = photo(tmp_path / "a.png", HW)
    code, out, _ = predict(shot, "--intrinsics", calibration, "--out", tmp_path / "out", "--json")
    assert code == 0
    assert "undistorted" not in predicted(out)["a.png"]["files"]
