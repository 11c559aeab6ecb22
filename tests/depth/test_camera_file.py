"""Calibrations as people hand them in: the numbers, the size, the convention of pixels, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from spaceclip_plugin.depth import DistortedCamera
from spaceclip_plugin.depth.camera_file import CameraParameters, camera_from
from spaceclip_plugin.errors import ConfigError

K = CameraParameters(500.0, 510.0, 320.0, 240.0)
SIZED = CameraParameters(500.0, 510.0, 320.0, 240.0, (480, 640))
ROS = """image_width: 640
image_height: 480
camera_name: front
camera_matrix:
  rows: 3
  cols: 3
  data: [500., 0., 319.5, 0., 510., 239.5, 0., 0., 1.]
distortion_model: plumb_bob
distortion_coefficients: {rows: 1, cols: 5, data: [0, 0, 0, 0, 0]}
"""
TOPIC = """height: 480
width: 640
distortion_model: plumb_bob
d: [0.0, 0.0, 0.0, 0.0, 0.0]
k: [500.0, 0.0, 319.5, 0.0, 510.0, 239.5, 0.0, 0.0, 1.0]
---
"""
LENS_JSON = {"fx": 500, "fy": 510, "cx": 320, "cy": 240, "distortion_model": "fisheye"}
FILES = {
    "K.txt": ("500 0 320\n0 510 240\n0 0 1\n", K),
    "K.csv": ("500,0,320\n0,510,240\n0,0,1\n", K),
    "four.txt": ("# of the left camera\n500 510 320 240\n", K),
    "intrinsics.json": (json.dumps({"fx": 500, "fy": 510, "cx": 320, "cy": 240.0}), K),
    "sized.json": (json.dumps({"fx": 500, "fy": 510, "cx": 320, "cy": 240, "width": 640, "height": 480}), SIZED),
    "camera.yaml": (ROS, SIZED),  # ROS's first pixel has its centre at (0, 0)
    "echo.yaml": (TOPIC, SIZED),  # of `ros2 topic echo --once`
    "ros1.yaml": (TOPIC.replace("d:", "D:").replace("k:", "K:"), SIZED),
    "cameras.txt": ("# Camera list\n#   CAMERA_ID, MODEL, …\n1 PINHOLE 640 480 500 510 320 240\n", SIZED),
    "unnamed.yaml": (TOPIC.replace("plumb_bob", "''"), SIZED),
    "no-model.yaml": (TOPIC.replace("distortion_model: plumb_bob\n", ""), SIZED),
    "rational-zeros.yaml": (TOPIC.replace("plumb_bob", "rational_polynomial"), SIZED),
    "opencv-zeros.txt": ("1 OPENCV 640 480 500 510 320 240 0 0 0 0", SIZED),
    "simple.txt": ("1 SIMPLE_PINHOLE 640 480 500 320 240\n", CameraParameters(500.0, 500.0, 320.0, 240.0, (480, 640))),
}


def lens(model: str, *coefficients: float, fy_px: float = 510.0) -> CameraParameters:
    return CameraParameters(500.0, fy_px, 320.0, 240.0, (480, 640), model, coefficients)


LENSES = {
    "plumb_bob.yaml": (ROS.replace("[0, 0,", "[-0.3, 0,"), lens("brown-conrady", -0.3, 0, 0, 0, 0)),
    "list.yaml": (
        ROS.replace("{rows: 1, cols: 5, data: [0, 0, 0, 0, 0]}", "[-0.3, 0, 0, 0]"),
        lens("brown-conrady", -0.3, 0, 0, 0),
    ),
    "topic.yaml": (TOPIC.replace("d: [0.0,", "d: [0.1,"), lens("brown-conrady", 0.1, 0, 0, 0, 0)),
    "rational.yaml": (
        TOPIC.replace("plumb_bob", "rational_polynomial").replace("d: [0.0,", "d: [0.1, 0, 0, 0.2,"),
        lens("brown-conrady", 0.1, 0, 0, 0.2, 0, 0, 0, 0),
    ),
    "equidistant.yaml": (
        TOPIC.replace("plumb_bob", "equidistant").replace("d: [0.0,", "d: ["),
        lens("fisheye", 0, 0, 0, 0),  # without coefficients it is none the less no pinhole
    ),
    "fisheye.yaml": (
        TOPIC.replace("plumb_bob", "fisheye").replace("d: [0.0, 0.0,", "d: [0.1,"),
        lens("fisheye", 0.1, 0, 0, 0),
    ),
    "radial.txt": ("1 SIMPLE_RADIAL 640 480 500 320 240 0.1", lens("brown-conrady", 0.1, 0, 0, 0, fy_px=500.0)),
    "radial-2.txt": ("1 RADIAL 640 480 500 320 240 0.1 0.2", lens("brown-conrady", 0.1, 0.2, 0, 0, fy_px=500.0)),
    "opencv.txt": ("1 OPENCV 640 480 500 510 320 240 1 2 3 4", lens("brown-conrady", 1, 2, 3, 4)),
    "full.txt": (
        "1 FULL_OPENCV 640 480 500 510 320 240 1 2 3 4 5 6 7 8",
        lens("brown-conrady", 1, 2, 3, 4, 5, 6, 7, 8),
    ),
    "fisheye.txt": ("1 OPENCV_FISHEYE 640 480 500 510 320 240 1 2 3 4", lens("fisheye", 1, 2, 3, 4)),
    "fisheye-1.txt": ("1 SIMPLE_RADIAL_FISHEYE 640 480 500 320 240 1", lens("fisheye", 1, 0, 0, 0, fy_px=500.0)),
    "fisheye-2.txt": ("1 RADIAL_FISHEYE 640 480 500 320 240 1 2", lens("fisheye", 1, 2, 0, 0, fy_px=500.0)),
    "ours.json": (
        json.dumps({**LENS_JSON, "width": 640, "height": 480, "distortion_coefficients": [1, 2, 3, 4]}),
        lens("fisheye", 1, 2, 3, 4),
    ),
}


@pytest.mark.parametrize("name", LENSES)
def test_files_that_tell_of_distortion(tmp_path: Path, name: str) -> None:
    content, expected = LENSES[name]
    (tmp_path / name).write_text(content, encoding="utf-8")
    found = camera_from(str(tmp_path / name))
    assert found == expected
    camera = found.of((480, 640))
    assert isinstance(camera, DistortedCamera)
    assert (camera.fx_px, camera.cx_px, camera.cy_px, camera.image_hw) == (500.0, 320.0, 240.0, (480, 640))
    assert (camera.model, camera.coefficients) == (expected.model, expected.coefficients)


@pytest.mark.parametrize(
    ("name", "content", "model"),
    [
        ("fov.txt", "1 FOV 640 480 500 510 320 240 0.9", "FOV"),
        ("thin.txt", "1 THIN_PRISM_FISHEYE 640 480 500 510 320 240 1 2 3 4 5 6 7 8", "THIN_PRISM_FISHEYE"),
        ("omni.yaml", TOPIC.replace("plumb_bob", "omnidirectional"), "omnidirectional"),
        ("number.yaml", TOPIC.replace("plumb_bob", "[3]"), "3"),
        ("lens.json", json.dumps({**LENS_JSON, "distortion_model": "FOV", "distortion_coefficients": [0.9]}), "FOV"),
    ],
)
def test_a_model_that_is_not_known_is_named(tmp_path: Path, name: str, content: str, model: str) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match=f"{name}.*{model}"):
        camera_from(str(tmp_path / name))


@pytest.mark.parametrize("name", FILES)
def test_files(tmp_path: Path, name: str) -> None:
    content, expected = FILES[name]
    (tmp_path / name).write_text(content, encoding="utf-8")
    assert camera_from(str(tmp_path / name)) == expected


def test_an_array(tmp_path: Path) -> None:
    np.save(tmp_path / "K.npy", np.array([[500.0, 0, 320], [0, 510, 240], [0, 0, 1]], np.float32))
    assert camera_from(str(tmp_path / "K.npy")) == K


@pytest.mark.parametrize("text", ["500,510,320,240", "500, 510, 320, 240", "500 510 320 240", "5e2,510,320.0,240"])
def test_numbers(text: str) -> None:
    assert camera_from(text) == K


@pytest.mark.parametrize("name", ["K.txt", "calibration/K.txt", "K", "x" * 5000])
def test_a_missing_file_is_told_as_one(name: str) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        camera_from(name)


def test_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="folder"):
        camera_from(str(tmp_path))


@pytest.mark.parametrize("text", ["1,2,3", "500,510,320", "a,b,c,d", "0,50,1,1", "nan,1,1,1", ",,,", ""])
def test_what_is_no_calibration(text: str) -> None:
    with pytest.raises(ConfigError, match="intrinsics"):
        camera_from(text)


OTHERS = {
    "notes.txt": "the camera was a wide one",
    "empty.txt": "",
    "five.txt": "1 2 3 4 5",
    "skew.txt": "500 3 320 0 510 240 0 0 1",
    "list.json": "[500, 510, 320, 240]",
    "unknown.json": '{"fx": 500, "fy": 510, "cx": 320, "cy": 240, "k1": 0.1}',
    "half.json": '{"fx": 500, "fy": 510, "cx": 320, "cy": 240, "width": 640}',
    "missing.json": '{"fx": 500}',
    "other.yaml": "image_width: 640\n",
    "tags.yaml": "!!python/object/apply:os.system [x]",
    "five-of-a-fisheye.yaml": ROS.replace("plumb_bob", "equidistant"),
    "none-of-a-fisheye.yaml": TOPIC.replace("plumb_bob", "equidistant").replace(
        "d: [0.0, 0.0, 0.0, 0.0, 0.0]", "d: []"
    ),
    "three.yaml": TOPIC.replace("d: [0.0, 0.0, 0.0, 0.0, 0.0]", "d: [0.1, 0.0, 0.0]"),
    "nan.yaml": TOPIC.replace("d: [0.0,", "d: [.nan,"),
    "unnamed.yaml": TOPIC.replace("plumb_bob", "''").replace("d: [0.0,", "d: [0.1,"),
    "messages.yaml": TOPIC + TOPIC,
    "huge.yaml": ROS.replace("500.", "5" * 400),
    "deep.yaml": "[" * 5000,
    "empty.npy": "",
    "short.txt": "1 OPENCV 640 480 500 510 320 240 0.1 0 0",
    "long.txt": "1 PINHOLE 640 480 500 510 320 240 0.1",
    "infinite.txt": "1 OPENCV 640 480 500 510 320 240 inf 0 0 0",
    "model-alone.json": '{"fx": 500, "fy": 510, "cx": 320, "cy": 240, "distortion_model": "fisheye"}',
    "coefficients-alone.json": '{"fx": 500, "fy": 510, "cx": 320, "cy": 240, "distortion_coefficients": [0, 0, 0, 0]}',
    "three-of-a-fisheye.json": json.dumps({**LENS_JSON, "distortion_coefficients": [0, 0, 0]}),
    "words.json": json.dumps({**LENS_JSON, "distortion_coefficients": "0.1 0 0 0"}),
    "two.txt": "1 PINHOLE 640 480 500 510 320 240\n2 PINHOLE 640 480 500 510 320 240\n",
    "photo.npy": "\x93NUMPY cut",
    "large.txt": "1 " * 100_000,
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_file_of_something_else_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(OTHERS[name], encoding="latin-1")
    with pytest.raises(ConfigError, match=name):
        camera_from(str(tmp_path / name))


def test_a_pickle_is_never_read(tmp_path: Path) -> None:
    np.save(tmp_path / "K.npy", np.array([{"fx": 1}], dtype=object))
    with pytest.raises(ConfigError, match="allow_pickle"):
        camera_from(str(tmp_path / "K.npy"))
