"""A camera as people hand it in: four numbers, a matrix, or a calibration tool's file (`EXPECTED`), distortion too."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from spaceclip_plugin._checks import real, shown, unknown_key, whole
from spaceclip_plugin._files import parse_json_object
from spaceclip_plugin.depth.camera import Intrinsics
from spaceclip_plugin.depth.distortion import DistortedCamera
from spaceclip_plugin.depth.lens_model import BROWN_CONRADY, FISHEYE, checked_coefficients
from spaceclip_plugin.errors import CheckpointError, ConfigError

EXPECTED = (
    "FX,FY,CX,CY, or a file with these four numbers or the 3x3 matrix K as text or .npy, an intrinsics.json, a ROS "
    "camera_info as .yaml, or a cameras.txt of COLMAP with one camera"
)
_MAX_BYTES = 1 << 16
_MAX_PX = 1e6
_MAX_SIDE_PX = 1 << 20
DISTORTION_KEYS = ("distortion_model", "distortion_coefficients")
"""Of an intrinsics.json: model and coefficients of `DistortedCamera`."""

_DISTORTIONS = ("distortion_coefficients", "d", "D")
_ROS_MODELS = {
    "plumb_bob": BROWN_CONRADY, "rational_polynomial": BROWN_CONRADY, "equidistant": FISHEYE, "fisheye": FISHEYE,
}  # fmt: skip
_COLMAP_MODELS = {
    "SIMPLE_PINHOLE": ("f cx cy", None),
    "PINHOLE": ("fx fy cx cy", None),
    "SIMPLE_RADIAL": ("f cx cy k1", BROWN_CONRADY),
    "RADIAL": ("f cx cy k1 k2", BROWN_CONRADY),
    "OPENCV": ("fx fy cx cy k1 k2 p1 p2", BROWN_CONRADY),
    "FULL_OPENCV": ("fx fy cx cy k1 k2 p1 p2 k3 k4 k5 k6", BROWN_CONRADY),
    "SIMPLE_RADIAL_FISHEYE": ("f cx cy k1", FISHEYE),
    "RADIAL_FISHEYE": ("f cx cy k1 k2", FISHEYE),
    "OPENCV_FISHEYE": ("fx fy cx cy k1 k2 k3 k4", FISHEYE),
}
"""What COLMAP writes of a camera (`src/colmap/sensor/models.h`), and which model of `DistortedCamera` that is."""


@dataclass(frozen=True)
class CameraParameters:
    """`Intrinsics` or a `DistortedCamera`, checked like them, whose image size may not be known."""

    fx_px: float
    fy_px: float
    cx_px: float
    cy_px: float
    image_hw: tuple[int, int] | None = None
    model: str | None = None  # of the distortion; None is a pinhole
    coefficients: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.model is not None:
            object.__setattr__(self, "coefficients", checked_coefficients(self.model, self.coefficients))
            if self.model == BROWN_CONRADY and not any(self.coefficients):
                object.__setattr__(self, "model", None)
                object.__setattr__(self, "coefficients", ())
        self.numbers((1, 1) if self.image_hw is None else self.image_hw)

    def numbers(self, image_hw: tuple[int, int]) -> Intrinsics:
        """Focal lengths and principal point, taken to be of an image of that size, whatever the lens distorts."""
        return Intrinsics(self.fx_px, self.fy_px, self.cx_px, self.cy_px, image_hw)

    def of(self, image_hw: tuple[int, int]) -> Intrinsics | DistortedCamera:
        """The camera, taken to be of an image of that size."""
        camera = self.numbers(image_hw)
        if self.model is None:
            return camera
        return DistortedCamera(
            camera.fx_px, camera.fy_px, camera.cx_px, camera.cy_px, image_hw, self.model, self.coefficients
        )


def camera_from(text: str) -> CameraParameters:
    """The camera that a command line names: four or nine numbers, or the path of a file."""
    if os.path.isfile(text):  # not Path.is_file(), which raises on a name too long for the disk
        return _read(Path(text))
    words = [word for word in re.split(r"[,\s]+", text.strip()) if word]
    try:
        numbers = [float(word) for word in words]
    except ValueError as error:
        if os.path.isdir(text):
            raise ConfigError(f"intrinsics are {EXPECTED}; {text!r} is a folder") from error
        if len(words) == 1:
            raise ConfigError(f"no such file with intrinsics: {text!r}; expected {EXPECTED}") from error
        raise ConfigError(f"intrinsics are {EXPECTED}; got {text!r}: {error}") from error
    return CameraParameters(*_four(numbers, where=repr(text)))


def _read(path: Path) -> CameraParameters:
    try:
        with path.open("rb") as file:
            raw = file.read(_MAX_BYTES + 1)
        if len(raw) > _MAX_BYTES:
            raise ConfigError(f"more than {_MAX_BYTES} bytes")
        return _READERS.get(path.suffix.lower(), _from_text)(raw)
    except OSError as error:
        raise ConfigError(f"cannot read intrinsics from {str(path)!r} ({error.strerror or error})") from error
    except (ConfigError, CheckpointError, ValueError, EOFError, OverflowError, RecursionError) as error:
        raise ConfigError(f"no intrinsics in {str(path)!r}: {error}; expected {EXPECTED}") from error


def _from_text(raw: bytes) -> CameraParameters:
    """Four or nine numbers; or COLMAP's lines `CAMERA_ID MODEL WIDTH HEIGHT PARAMS…`. Comments begin with #."""
    lines = [line.split("#", maxsplit=1)[0].replace(",", " ").split() for line in raw.decode("utf-8-sig").splitlines()]
    lines = [line for line in lines if line]
    if not any(len(line) > 1 and re.fullmatch("[A-Z_]+", line[1]) for line in lines):
        return CameraParameters(*_four([float(word) for line in lines for word in line], where="the file"))
    if len(lines) != 1:
        raise ConfigError(f"it lists {len(lines)} cameras; leave the line of one of them")
    _, model, *words = lines[0]
    if model not in _COLMAP_MODELS:
        raise ConfigError(
            f"the camera's model is {model} with the parameters {' '.join(words[2:])}, and known are "
            f"{', '.join(_COLMAP_MODELS)}: undistort the photos first, and give their pinhole camera"
        )
    expected, distortion = _COLMAP_MODELS[model]
    names = expected.split()
    if len(words) != 2 + len(names):
        raise ConfigError(f"{model} has the parameters {expected}, got {max(0, len(words) - 2)}: {' '.join(words[2:])}")
    width, height = (whole("WIDTH and HEIGHT", int(word), 1, _MAX_SIDE_PX) for word in words[:2])
    *focal_px, cx_px, cy_px = (float(word) for word in words[2 : 2 + names.index("cy") + 1])
    coefficients = [float(word) for word in words[2 + names.index("cy") + 1 :]]
    coefficients += [0.0] * (4 - len(coefficients))  # those that the smaller models leave out
    return CameraParameters(
        focal_px[0], focal_px[-1], cx_px, cy_px, (height, width), distortion, tuple(coefficients) if distortion else ()
    )


def _from_json(raw: bytes) -> CameraParameters:
    content = parse_json_object(raw, source="the file")
    names = ("fx", "fy", "cx", "cy")
    known = [*names, "width", "height", *DISTORTION_KEYS]
    for key in content:
        if key not in known:
            raise unknown_key(key, known, where="the file")
    fx_px, fy_px, cx_px, cy_px = (real(name, content.get(name), -_MAX_PX, _MAX_PX) for name in names)
    size, (model, coefficients) = _size(content, "width", "height"), (content.get(key) for key in DISTORTION_KEYS)
    if model is None and coefficients is None:
        return CameraParameters(fx_px, fy_px, cx_px, cy_px, size)
    if model is None or coefficients is None:
        raise ConfigError(f"{' and '.join(DISTORTION_KEYS)} go together")
    return CameraParameters(fx_px, fy_px, cx_px, cy_px, size, model, coefficients)


def _from_ros(raw: bytes) -> CameraParameters:
    """From what `camera_calibration` or `topic echo` writes; its pixels have their centre at whole numbers."""
    import yaml

    try:
        documents = [one for one in yaml.safe_load_all(raw) if one is not None]  # a topic's end in ---
    except yaml.YAMLError as error:
        raise ConfigError(" ".join(str(error).split())) from error
    if len(documents) > 1:
        raise ConfigError(f"it holds {len(documents)} messages; leave one of them")
    content = documents[0] if documents and isinstance(documents[0], dict) else {}
    matrix = next((name for name in ("camera_matrix", "k", "K") if name in content), None)
    if matrix is None:
        raise ConfigError("there is no camera_matrix in it, and no k")
    fx_px, fy_px, cx_px, cy_px = _four(_numbers(content[matrix], matrix), where=matrix)
    sides = ("image_width", "image_height") if "image_width" in content else ("width", "height")
    lens = _distortion(content)
    return CameraParameters(fx_px, fy_px, cx_px + 0.5, cy_px + 0.5, _size(content, *sides), *lens)


def _distortion(content: Mapping[str, Any]) -> tuple[str | None, tuple[float, ...]]:
    """Model and coefficients of a camera_info. A model that is not known is no pinhole, coefficients or none."""
    name = str(content.get("distortion_model") or "")
    key = next((key for key in _DISTORTIONS if content.get(key)), None)
    coefficients = () if key is None else tuple(_numbers(content[key], key))
    if name in _ROS_MODELS:
        model = _ROS_MODELS[name]
        return (None, ()) if model == BROWN_CONRADY and not any(coefficients) else (model, coefficients)
    if name or any(coefficients):
        raise ConfigError(
            f"the camera's distortion_model is {shown(name)} with the coefficients {shown(list(coefficients))}, and "
            f"known are {', '.join(_ROS_MODELS)}: rectify the photos first, and give fx, fy, cx + 0.5 and cy + 0.5 of "
            "its projection_matrix"
        )
    return None, ()


def _from_npy(raw: bytes) -> CameraParameters:
    stored = np.load(io.BytesIO(raw), allow_pickle=False)
    if stored.dtype.kind not in "fiu":
        raise ConfigError(f"it holds {stored.dtype}")
    numbers = stored.astype(np.float64).reshape(-1).tolist()
    return CameraParameters(*_four(numbers, where=f"an array of shape {stored.shape}"))


_READERS = {".json": _from_json, ".yaml": _from_ros, ".yml": _from_ros, ".npy": _from_npy}


def _numbers(given: object, name: str) -> list[float]:
    """Of a list, or of a matrix whose list is its `data`."""
    if isinstance(given, dict):
        given, name = given.get("data"), f"{name}.data"
    if not isinstance(given, list) or not all(isinstance(value, (int, float)) for value in given):
        raise ConfigError(f"{name} is a list of numbers, got {given!r}")
    return [float(value) for value in given]


def _size(content: Mapping[str, Any], width: str, height: str) -> tuple[int, int] | None:
    if content.get(width) is None and content.get(height) is None:
        return None
    rows, columns = (whole(name, content.get(name), 1, _MAX_SIDE_PX) for name in (height, width))
    return rows, columns


def _four(numbers: Sequence[float], *, where: str) -> tuple[float, float, float, float]:
    """fx, fy, cx and cy, from these or from the nine of K."""
    if len(numbers) == 9:
        camera = Intrinsics.from_matrix(torch.tensor(numbers, dtype=torch.float64).reshape(3, 3), (1, 1))
        return camera.fx_px, camera.fy_px, camera.cx_px, camera.cy_px
    if len(numbers) != 4:
        raise ConfigError(f"intrinsics are {EXPECTED}; got {len(numbers)} numbers in {where}")
    return numbers[0], numbers[1], numbers[2], numbers[3]
