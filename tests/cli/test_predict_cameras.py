"""One K and many photos: the rays of every point cloud, and what recordings say of the camera."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from photo_world import Run, head, no_host, photo, predict, predicted, rays

from spaceclip_plugin.data.files.orientation import upright_intrinsics
from spaceclip_plugin.depth.camera import Intrinsics

__all__ = ["head", "no_host", "predict"]  # fixtures

SENSOR = Intrinsics(fx_px=48.0, fy_px=40.0, cx_px=30.0, cy_px=26.0, image_hw=(48, 64))
GIVEN = ["--intrinsics", "48,40,30,26"]
SIZE = ["--intrinsics-size", "48,64"]


def expected_rays(camera: Intrinsics) -> np.ndarray:
    height, width = camera.image_hw
    x = (np.arange(width) + 0.5 - camera.cx_px) / camera.fx_px
    y = (np.arange(height) + 0.5 - camera.cy_px) / camera.fy_px
    return np.stack(np.meshgrid(x, y), -1)


def fields_of_view(entry: dict[str, object]) -> float:
    """Horizontal degrees, from what `--json` says."""
    k, (_, width) = entry["intrinsics"], entry["image_hw"]
    return math.degrees(math.atan(k["cx"] / k["fx"]) + math.atan((width - k["cx"]) / k["fx"]))


def test_a_photo_of_another_resolution_keeps_the_field_of_view(predict: Run, tmp_path: Path) -> None:
    sizes = {"whole.png": (48, 64), "half.png": (24, 32), "double.png": (96, 128), "rounded.png": (45, 61)}
    files = [photo(tmp_path / name, hw) for name, hw in sizes.items()]
    code, out, _ = predict(*files, *GIVEN, *SIZE, "--out", tmp_path / "out", "--json")
    assert code == 0
    found = predicted(out)
    for name, hw in sizes.items():
        camera = SENSOR.resized(hw)
        assert found[name]["intrinsics"] == {
            "fx": camera.fx_px, "fy": camera.fy_px, "cx": camera.cx_px, "cy": camera.cy_px,
        }  # fmt: skip
        assert fields_of_view(found[name]) == pytest.approx(fields_of_view(found["whole.png"]), abs=1e-9)
        np.testing.assert_allclose(rays(Path(found[name]["files"]["points"]), hw), expected_rays(camera), atol=1e-5)


def test_photos_of_one_size_need_none(predict: Run, tmp_path: Path) -> None:
    files = [photo(tmp_path / f"{name}.png", (48, 64)) for name in "ab"]
    assert predict(*files, *GIVEN, "--out", tmp_path / "out")[0] == 0
    np.testing.assert_allclose(rays(tmp_path / "out" / "b.ply", (48, 64)), expected_rays(SENSOR), atol=1e-5)


def test_a_file_that_tells_its_size(predict: Run, tmp_path: Path) -> None:
    file = tmp_path / "intrinsics.json"
    file.write_text(json.dumps({"fx": 480, "fy": 400, "cx": 300, "cy": 260, "width": 640, "height": 480}))
    shot = photo(tmp_path / "a.png", (48, 64))
    assert predict(shot, "--intrinsics", file, "--out", tmp_path / "out")[0] == 0
    np.testing.assert_allclose(rays(tmp_path / "out" / "a.ply", (48, 64)), expected_rays(SENSOR), atol=1e-5)
    code, _, err = predict(shot, "--intrinsics", file, "--intrinsics-size", "48x64", "--out", tmp_path / "other")
    assert code == 1
    assert "48x64" in err
    assert "480x640" in err


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("scale", [1, 2])
def test_a_turned_photo_has_the_sensors_camera_turned(
    predict: Run, tmp_path: Path, orientation: int, scale: int
) -> None:
    shot = photo(tmp_path / "a.jpg", (48 * scale, 64 * scale), orientation=orientation)
    assert predict(shot, *GIVEN, *SIZE, "--out", tmp_path / "out")[0] == 0
    camera = upright_intrinsics(SENSOR.resized((48 * scale, 64 * scale)), orientation)
    np.testing.assert_allclose(rays(tmp_path / "out" / "a.ply", camera.image_hw), expected_rays(camera), atol=1e-5)


@pytest.mark.parametrize("orientation", range(5, 9))
def test_a_size_of_the_upright_photo_is_taken_as_it_is(predict: Run, tmp_path: Path, orientation: int) -> None:
    shot = photo(tmp_path / "a.jpg", (64, 48), orientation=orientation)  # upright: 48x64
    assert predict(shot, *GIVEN, *SIZE, "--out", tmp_path / "out")[0] == 0
    np.testing.assert_allclose(rays(tmp_path / "out" / "a.ply", (48, 64)), expected_rays(SENSOR), atol=1e-5)


@pytest.mark.parametrize("orientation", range(2, 9))
def test_a_square_photo_is_the_sensors_and_the_log_says_so(
    predict: Run, tmp_path: Path, orientation: int, caplog: pytest.LogCaptureFixture
) -> None:
    shot = photo(tmp_path / "a.jpg", (48, 48), orientation=orientation)
    given = ["--intrinsics", "48,40,26,22"]
    assert predict(shot, *given, "--out", tmp_path / "out")[0] == 0
    camera = upright_intrinsics(Intrinsics(48.0, 40.0, 26.0, 22.0, (48, 48)), orientation)
    np.testing.assert_allclose(rays(tmp_path / "out" / "a.ply", (48, 48)), expected_rays(camera), atol=1e-5)
    [said] = [record.getMessage() for record in caplog.records if "EXIF" in record.getMessage()]
    assert f"cx={camera.cx_px:g}, cy={camera.cy_px:g}" in said


def test_a_centred_camera_is_the_same_upside_down(
    predict: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shot = photo(tmp_path / "a.jpg", (48, 64), orientation=3)
    assert predict(shot, "--intrinsics", "48,40,32,24", "--out", tmp_path / "out")[0] == 0
    assert not [record for record in caplog.records if "EXIF" in record.getMessage()]


@pytest.mark.usefixtures("no_host")
class TestBeforeTheHost:
    def test_several_sizes_and_none_given(self, predict: Run, tmp_path: Path) -> None:
        files = [photo(tmp_path / "a.png", (48, 64)), photo(tmp_path / "b.png", (60, 60))]
        code, out, err = predict(*files, *GIVEN, "--out", tmp_path / "out")
        assert (code, out) == (1, "")
        assert all(said in err for said in ("48x64", "60x60", "a.png", "b.png", "--intrinsics-size"))
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize("orientation", range(5, 9))
    def test_one_photo_that_is_turned_has_two(self, predict: Run, tmp_path: Path, orientation: int) -> None:
        shot = photo(tmp_path / "a.jpg", (48, 64), orientation=orientation)
        code, _, err = predict(shot, *GIVEN, "--out", tmp_path / "out")
        assert code == 1
        assert all(said in err for said in ("48x64", "64x48", "a.jpg as stored", "--intrinsics-size"))

    @pytest.mark.parametrize("given", ["480,400,300,260", "48,40,30,480", "48,40,-1,26", "48,40,64,26", "48,40,0,26"])
    def test_a_principal_point_outside_of_the_image(self, predict: Run, tmp_path: Path, given: str) -> None:
        shot = photo(tmp_path / "a.png", (48, 64))
        code, _, err = predict(shot, f"--intrinsics={given}", "--out", tmp_path / "out")
        assert code == 1
        assert f"cx={float(given.split(',')[2]):g}" in err
        assert "48x64" in err

    def test_all_photos_are_of_another_aspect(self, predict: Run, tmp_path: Path) -> None:
        code, _, err = predict(photo(tmp_path / "a.png", (60, 60)), *GIVEN, *SIZE, "--out", tmp_path / "out")
        assert code == 1
        assert all(said in err for said in ("a.png", "60x60", "48x64"))

    def test_a_size_without_intrinsics(self, predict: Run, tmp_path: Path) -> None:
        code, _, err = predict(photo(tmp_path / "a.png", (48, 64)), *SIZE, "--out", tmp_path / "out")
        assert code == 1
        assert "--intrinsics-size" in err

    @pytest.mark.parametrize("size", ["48", "48,64,3", "0,64", "-48,64", "48.0,64"])
    def test_what_is_no_size(self, predict: Run, tmp_path: Path, size: str) -> None:
        with pytest.raises(SystemExit) as stopped:
            predict("a.png", *GIVEN, f"--intrinsics-size={size}", "--out", tmp_path / "out")
        assert stopped.value.code == 2


@pytest.mark.parametrize(
    ("given", "named"),
    [("48,40,10,26", "cx=10"), ("48,40,30,38", "cy=38"), ("5,40,30,26", "fx=5"), ("480,480,30,26", "fx=480")],
)
def test_unlikely_cameras_are_questioned(
    predict: Run, tmp_path: Path, given: str, named: str, caplog: pytest.LogCaptureFixture
) -> None:
    shot = photo(tmp_path / "a.png", (48, 64))
    assert predict(shot, "--intrinsics", given, "--out", tmp_path / "out")[0] == 0
    [said] = [record.getMessage() for record in caplog.records if "--intrinsics" in record.getMessage()]
    assert named in said
    assert "48x64" in said


def test_a_photo_of_another_aspect_does_not_stop_the_others(predict: Run, tmp_path: Path) -> None:
    files = [
        photo(tmp_path / "a.png", (48, 64)),
        photo(tmp_path / "b.png", (60, 60)),
        photo(tmp_path / "c.png", (96, 128)),
    ]
    code, out, err = predict(*files, *GIVEN, *SIZE, "--out", tmp_path / "out", "--json")
    assert code == 1
    assert list(predicted(out)) == ["a.png", "c.png"]
    [failed] = json.loads(out)["failed"]
    assert failed["image"] == str(files[1])
    assert "60x60" in failed["reason"]
    assert failed["reason"] in err
    assert not list((tmp_path / "out").glob("b*"))


def test_the_camera_info_of_an_mcap_file_is_each_photos_own(predict: Run, tmp_path: Path) -> None:
    pytest.importorskip("mcap_ros2", reason="needs mcap-ros2-support: pip install mcap-ros2-support")
    from mcap.reader import make_reader
    from mcap_ros2.decoder import DecoderFactory

    files = [photo(tmp_path / "a.png", (48, 64)), photo(tmp_path / "b.png", (96, 128))]
    files.append(photo(tmp_path / "c.jpg", (48, 64), orientation=6))
    recording = tmp_path / "all.mcap"
    assert predict(*files, *GIVEN, *SIZE, "--out", tmp_path / "out", "--mcap", recording)[0] == 0
    cameras = [SENSOR, SENSOR.resized((96, 128)), upright_intrinsics(SENSOR, 6)]
    with recording.open("rb") as handle:
        reader = make_reader(handle, decoder_factories=[DecoderFactory()])
        for topic in ("/camera/depth/camera_info", "/camera/color/camera_info"):
            infos = [message for _, _, _, message in reader.iter_decoded_messages(topics=[topic])]
            assert [(info.height, info.width) for info in infos] == [camera.image_hw for camera in cameras]
            for info, camera in zip(infos, cameras, strict=True):
                k = [camera.fx_px, 0, camera.cx_px - 0.5, 0, camera.fy_px, camera.cy_px - 0.5, 0, 0, 1]
                assert list(info.k) == pytest.approx(k, abs=1e-9)


def test_the_pinhole_of_a_rerun_file_is_each_photos_own(
    predict: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rerun = pytest.importorskip("rerun", reason="needs rerun: pip install 'spaceclip-plugin[viz]'")
    seen = []
    pinhole = rerun.Pinhole

    def spy(*, image_from_camera: np.ndarray, resolution: list[int]) -> object:
        seen.append((image_from_camera.tolist(), tuple(resolution)))
        return pinhole(image_from_camera=image_from_camera, resolution=resolution)

    monkeypatch.setattr(rerun, "Pinhole", spy)
    files = [photo(tmp_path / "a.png", (24, 32)), photo(tmp_path / "c.jpg", (48, 64), orientation=8)]
    assert predict(*files, *GIVEN, *SIZE, "--out", tmp_path / "out", "--rerun", tmp_path / "all.rrd")[0] == 0
    cameras = [SENSOR.resized((24, 32)), upright_intrinsics(SENSOR, 8)]
    expected = [(camera.matrix().tolist(), camera.image_hw[::-1]) for camera in cameras]
    assert seen[::2] == expected  # of the photo
    assert seen[1::2] == expected  # of the depth
