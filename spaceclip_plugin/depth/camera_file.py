"""A camera's calibration as people hand it in: four numbers, a matrix, or a file that a calibration tool wrote.

Read here: text with fx fy cx cy or the 3x3 matrix K, a `.npy` with K, `intrinsics.json` (fx, fy, cx, cy, and width and
height where known), ROS's `camera_info` as YAML, and COLMAP's `cameras.txt`. The first pixel's centre is at (0.5, 0.5),
as in COLMAP; in ROS's files, where it is at (0, 0), half a pixel is added to cx and cy.
"""

from __future__ import annotations

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
_MOST_BYTES = 1 << 16
_MOST_PX = 1e6
_SIDE_MOST_PX = 1 << 20
_DISTORTIONS = ("distortion_coefficients", "d", "D")
_FISHEYES = ("equidistant", "fisheye")
_PINHOLES = {"SIMPLE_PINHOLE": 3, "PINHOLE": 4}


@dataclass(frozen=True)
class Calibration:
    """A pinhole camera, and the size of the image it is of where that is told.

    Attributes:
        fx_px, fy_px, cx_px, cy_px: as in `Intrinsics`.
        image_hw: (H, W) pixels; None where whoever wrote it did not say.

    Raises:
        ConfigError: no intrinsics of a pinhole camera.
    """

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


def calibration_from(text: str) -> Calibration:
    """The calibration that a command line names: four or nine numbers, or the path of a file.

    Raises:
        ConfigError: neither, or a file that is absent or holds something else.
    """
    if os.path.isfile(text):  # not Path.is_file(), which raises on a name too long for the disk
        return read_calibration(Path(text))
    words = [word for word in re.split(r"[,\s]+", text.strip()) if word]
    try:
        numbers = [float(word) for word in words]
    except ValueError as error:
        if os.path.isdir(text):
            raise ConfigError(f"intrinsics are {EXPECTED}; {text!r} is a folder") from error
        if len(words) == 1:
            raise ConfigError(f"no such file with intrinsics: {text!r}; expected {EXPECTED}") from error
        raise ConfigError(f"intrinsics are {EXPECTED}; got {text!r}: {error}") from error
    return _from_numbers(numbers, where=repr(text))


def read_calibration(path: Path) -> Calibration:
    """The calibration in a file.

    Raises:
        ConfigError: it cannot be read, or holds something else. Names the file and what was expected.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(_MOST_BYTES + 1)
        if len(raw) > _MOST_BYTES:
            raise ConfigError(f"more than {_MOST_BYTES} bytes")
        return _READERS.get(path.suffix.lower(), _from_text)(path, raw)
    except OSError as error:
        raise ConfigError(f"cannot read intrinsics from {str(path)!r} ({error.strerror or error})") from error
    except (ConfigError, CheckpointError, ValueError, EOFError, OverflowError, RecursionError) as error:
        raise ConfigError(f"no intrinsics in {str(path)!r}: {error}; expected {EXPECTED}") from error


def _from_text(path: Path, raw: bytes) -> Calibration:
    lines = [line.split("#", maxsplit=1)[0].replace(",", " ").split() for line in raw.decode("utf-8-sig").splitlines()]
    lines = [line for line in lines if line]
    if any(len(line) > 1 and re.fullmatch("[A-Z_]+", line[1]) for line in lines):
        return _from_colmap(lines)
    return _from_numbers([float(word) for line in lines for word in line], where="the file")


def _from_colmap(lines: Sequence[Sequence[str]]) -> Calibration:
    """From lines `CAMERA_ID MODEL WIDTH HEIGHT PARAMS…`, without comments."""
    if len(lines) != 1:
        raise ConfigError(f"it lists {len(lines)} cameras; leave the line of one of them")
    _, model, *words = lines[0]
    if len(words) != 2 + _PINHOLES.get(model, 0):
        raise ConfigError(
            f"the camera's model is {model} with {max(0, len(words) - 2)} parameters; points are made for "
            f"{' and '.join(_PINHOLES)}, without distortion: undistort the photos first"
        )
    width, height = (whole("WIDTH and HEIGHT", int(word), 1, _SIDE_MOST_PX) for word in words[:2])
    parameters = [float(word) for word in words[2:]]
    fx_px, fy_px, cx_px, cy_px = parameters if len(parameters) == 4 else [parameters[0], *parameters]
    return Calibration(fx_px, fy_px, cx_px, cy_px, (height, width))


def _from_json(path: Path, raw: bytes) -> Calibration:
    content = parse_json_object(raw, source=repr(str(path)))
    for key in content:
        if key not in ("fx", "fy", "cx", "cy", "width", "height"):
            raise unknown_key(key, ["fx", "fy", "cx", "cy", "width", "height"], where=str(path))
    fx_px, fy_px, cx_px, cy_px = (real(key, content.get(key), -_MOST_PX, _MOST_PX) for key in ("fx", "fy", "cx", "cy"))
    return Calibration(fx_px, fy_px, cx_px, cy_px, _size(content, "width", "height"))


def _from_ros(path: Path, raw: bytes) -> Calibration:
    """From what `camera_calibration` or `topic echo` writes; its pixels have their centre at whole numbers."""
    import yaml

    try:
        documents = [one for one in yaml.safe_load_all(raw) if one is not None]  # a topic's end in ---
    except yaml.YAMLError as error:
        raise ConfigError(" ".join(str(error).split())) from error
    if len(documents) > 1:
        raise ConfigError(f"it holds {len(documents)} messages; leave one of them")
    content = documents[0] if documents else None
    names = content if isinstance(content, dict) else {}
    matrix = next((name for name in ("camera_matrix", "k", "K") if name in names), None)
    if matrix is None:
        raise ConfigError("there is no camera_matrix in it, and no k")
    distorted = any(any(_numbers(names[name], name)) for name in _DISTORTIONS if names.get(name) is not None)
    if distorted or names.get("distortion_model") in _FISHEYES:  # without coefficients it is none the less no pinhole
        raise ConfigError(
            "the camera has lens distortion, which is not modelled: rectify the photos, and give fx, fy, cx + 0.5 and "
            "cy + 0.5 of its projection_matrix"
        )
    k = _from_numbers(_numbers(names[matrix], matrix), where=matrix)
    size = _size(names, *(("image_width", "image_height") if "image_width" in names else ("width", "height")))
    return Calibration(k.fx_px, k.fy_px, k.cx_px + 0.5, k.cy_px + 0.5, size)


def _from_npy(path: Path, raw: bytes) -> Calibration:
    stored = np.load(path, allow_pickle=False)
    if stored.dtype.kind not in "fiu":
        raise ConfigError(f"it holds {stored.dtype}")
    return _from_numbers(stored.astype(np.float64).reshape(-1).tolist(), where=f"an array of shape {stored.shape}")


_READERS = {".json": _from_json, ".yaml": _from_ros, ".yml": _from_ros, ".npy": _from_npy}


def _numbers(given: object, name: str) -> list[float]:
    """Of a list, or of a matrix whose list is its `data`."""
    if isinstance(given, dict):
        given, name = given.get("data"), f"{name}.data"
    if not isinstance(given, list) or not all(isinstance(value, (int, float)) for value in given):
        raise ConfigError(f"{name} is a list of numbers, got {given!r}")
    return [float(value) for value in given]


def _size(content: Mapping[str, Any], width: str, height: str) -> tuple[int, int] | None:
    given = [content.get(name) for name in (height, width)]
    if given == [None, None]:
        return None
    rows, columns = (whole(name, value, 1, _SIDE_MOST_PX) for name, value in zip((height, width), given, strict=True))
    return rows, columns


def _from_numbers(numbers: Sequence[float], *, where: str) -> Calibration:
    if len(numbers) == 9:
        matrix = torch.tensor(numbers, dtype=torch.float64).reshape(3, 3)
        camera = Intrinsics.from_matrix(matrix, (1, 1))
        return Calibration(camera.fx_px, camera.fy_px, camera.cx_px, camera.cy_px)
    if len(numbers) != 4:
        raise ConfigError(f"intrinsics are {EXPECTED}; got {len(numbers)} numbers in {where}")
    fx_px, fy_px, cx_px, cy_px = numbers
    return Calibration(fx_px, fy_px, cx_px, cy_px)
