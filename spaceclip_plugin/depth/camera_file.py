"""A camera's intrinsics as people hand them in: four numbers, a matrix, or a calibration tool's file (`EXPECTED`)."""

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

from spaceclip_plugin._checks import real, unknown_key, whole
from spaceclip_plugin._files import parse_json_object
from spaceclip_plugin.depth.camera import Intrinsics
from spaceclip_plugin.errors import CheckpointError, ConfigError

EXPECTED = (
    "FX,FY,CX,CY, or a file with these four numbers or the 3x3 matrix K as text or .npy, an intrinsics.json, a ROS "
    "camera_info as .yaml, or a cameras.txt of COLMAP with one PINHOLE camera"
)
_MAX_BYTES = 1 << 16
_MAX_PX = 1e6
_MAX_SIDE_PX = 1 << 20
_DISTORTIONS = ("distortion_coefficients", "d", "D")
_FISHEYES = ("equidistant", "fisheye")
_PINHOLES = {"SIMPLE_PINHOLE": 3, "PINHOLE": 4}


@dataclass(frozen=True)
class CameraParameters:
    """`Intrinsics`, checked like them, whose image size may not be known."""

    fx_px: float
    fy_px: float
    cx_px: float
    cy_px: float
    image_hw: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        self.of((1, 1) if self.image_hw is None else self.image_hw)

    def of(self, image_hw: tuple[int, int]) -> Intrinsics:
        """The intrinsics, taken to be of an image of that size."""
        return Intrinsics(self.fx_px, self.fy_px, self.cx_px, self.cy_px, image_hw)


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
    if len(words) != 2 + _PINHOLES.get(model, 0):
        raise ConfigError(
            f"the camera's model is {model} with {max(0, len(words) - 2)} parameters; points are made for "
            f"{' and '.join(_PINHOLES)}, without distortion: undistort the photos first"
        )
    width, height = (whole("WIDTH and HEIGHT", int(word), 1, _MAX_SIDE_PX) for word in words[:2])
    *focal_px, cx_px, cy_px = (float(word) for word in words[2:])
    return CameraParameters(focal_px[0], focal_px[-1], cx_px, cy_px, (height, width))


def _from_json(raw: bytes) -> CameraParameters:
    content = parse_json_object(raw, source="the file")
    names = ("fx", "fy", "cx", "cy")
    for key in content:
        if key not in (*names, "width", "height"):
            raise unknown_key(key, [*names, "width", "height"], where="the file")
    fx_px, fy_px, cx_px, cy_px = (real(name, content.get(name), -_MAX_PX, _MAX_PX) for name in names)
    return CameraParameters(fx_px, fy_px, cx_px, cy_px, _size(content, "width", "height"))


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
    distorted = any(any(_numbers(content[name], name)) for name in _DISTORTIONS if content.get(name) is not None)
    if distorted or content.get("distortion_model") in _FISHEYES:  # without coefficients it is none the less no pinhole
        raise ConfigError(
            "the camera has lens distortion, which is not modelled: rectify the photos, and give fx, fy, cx + 0.5 and "
            "cy + 0.5 of its projection_matrix"
        )
    fx_px, fy_px, cx_px, cy_px = _four(_numbers(content[matrix], matrix), where=matrix)
    sides = ("image_width", "image_height") if "image_width" in content else ("width", "height")
    return CameraParameters(fx_px, fy_px, cx_px + 0.5, cy_px + 0.5, _size(content, *sides))


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
