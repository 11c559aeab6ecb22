"""Where a camera was at every frame of a clip, from the file that a robot, SLAM or a renderer leaves.

Three kinds are read: rows of 16 or 12 numbers, a matrix row by row; a TUM trajectory, `timestamp tx ty tz qx qy qz qw`
(the format of the TUM RGB-D benchmark's tools); and a JSON object of 4x4 matrices by the frame's name.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from spaceclip_plugin._checks import shown
from spaceclip_plugin._files import read_json_object
from spaceclip_plugin.depth.pose import checked_pose
from spaceclip_plugin.errors import CheckpointError, ConfigError

EXPECTED = (
    "rows of 16 or 12 numbers (a 4x4 or 3x4 matrix, row by row), rows of a TUM trajectory (timestamp tx ty tz qx qy qz "
    "qw), or a .json of 4x4 matrices by the names of the frames"
)
CAMERA_TO_WORLD, WORLD_TO_CAMERA = "camera-to-world", "world-to-camera"
_MAX_BYTES = 1 << 26
_UNIT = 1e-3  # that the length of a quaternion may be off 1
_MAX_JUMP_M = 20.0
_TUM = 8  # numbers in a row
_HUGE = 1e300  # no whole number beyond it becomes a float

Matrix = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class CameraPoses:
    """Where one camera was, frame by frame."""

    source: str  # for messages
    camera_to_world: Matrix  # (N, 4, 4) rigid; OpenCV's axes: x right, y down, z forward
    names: tuple[str, ...] | None = None  # of the frames, where the file tells them

    def of_frames(self, names: Sequence[str]) -> Matrix:
        """(N, 4, 4), a pose for each frame in the order of these names; ConfigError unless they are its frames.

        Numbers are names of the same frame however many zeros they begin with. Where the file has no names the poses
        are in the order of the frames.
        """
        count = len(self.camera_to_world)
        if count != len(names):
            raise ConfigError(
                f"{self.source} has {count} poses, and there are {len(names)} frames; give one pose for every frame"
            )
        if self.names is None:
            return self.camera_to_world
        place: dict[str, int] = {}
        for at, name in enumerate(self.names):
            if place.setdefault(_plain(name), at) != at:
                raise ConfigError(f"{self.source} has two poses of the frame {name!r}; leave one")
        missing = next((name for name in names if _plain(name) not in place), None)
        if missing is not None:
            raise ConfigError(
                f"{self.source} has no pose of the frame {missing!r}; its poses are of {shown(list(self.names))}"
            )
        ordered: Matrix = self.camera_to_world[[place[_plain(name)] for name in names]]
        return ordered


def _plain(name: str) -> str:
    """A number without the zeros that it is padded with."""
    return name.lstrip("0") or "0" if name.isdecimal() else name


def read_poses(path: Path, *, poses_are: str = CAMERA_TO_WORLD) -> CameraPoses:
    """The poses in a file of `EXPECTED`; ConfigError, naming the row, for what is none.

    `poses_are` says what the matrices do: take points from the camera's frame to the world's, or back.
    """
    try:
        names, rows = _from_json(path) if path.suffix.lower() == ".json" else _from_text(path)
    except OSError as error:
        raise ConfigError(f"cannot read poses from {str(path)!r} ({error.strerror or error})") from error
    except (ConfigError, CheckpointError, ValueError) as error:
        raise ConfigError(f"no poses in {str(path)!r}: {error}; expected {EXPECTED}") from error
    source = f"the file of poses {str(path)!r}"
    poses = [_rigid(matrix, where=f"{source}: {label}") for label, matrix in rows]
    if poses_are == WORLD_TO_CAMERA:
        poses = [_inverted(pose) for pose in poses]
    _check_metres([label for label, _ in rows], poses, source)
    return CameraPoses(source, np.stack(poses), names)


_Rows = list[tuple[str, Matrix]]


def _from_json(path: Path) -> tuple[tuple[str, ...], _Rows]:
    rows = []
    content = read_json_object(path, max_bytes=_MAX_BYTES)
    for name, value in content.items():
        matrix = _array(value)
        if matrix is None or matrix.shape != (4, 4):
            raise ConfigError(f"the pose of {shown(name)} is no 4x4 matrix of numbers, got {shown(value)}")
        rows.append((f"the pose of {shown(name)}", matrix))
    if not rows:
        raise ConfigError("the object is empty")
    return tuple(content), rows


def _array(value: object) -> Matrix | None:
    """A list of lists of numbers, all of one length, as an array."""
    if not isinstance(value, list) or not all(isinstance(row, list) for row in value):
        return None
    if len({len(row) for row in value}) != 1 or not all(_is_number(number) for row in value for number in row):
        return None
    return np.array(value, dtype=np.float64)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < _HUGE


def _from_text(path: Path) -> tuple[None, _Rows]:
    with path.open("rb") as file:
        raw = file.read(_MAX_BYTES + 1)
    if len(raw) > _MAX_BYTES:
        raise ConfigError(f"more than {_MAX_BYTES} bytes")
    rows: _Rows = []
    length, last_s = None, -np.inf
    for line, text in enumerate(raw.decode("utf-8-sig").splitlines(), start=1):
        numbers = _numbers(text, line)
        if not numbers:
            continue
        if length is None and len(numbers) not in (_TUM, 12, 16):
            raise ConfigError(f"row {line} has {len(numbers)} numbers")
        length = length or len(numbers)
        if len(numbers) != length:
            raise ConfigError(f"row {line} has {len(numbers)} numbers, those before it {length}")
        if length == _TUM and numbers[0] <= last_s:
            raise ConfigError(f"row {line} is of the time {numbers[0]:f}, not after the row before it ({last_s:f})")
        last_s = numbers[0]
        rows.append((f"row {line}", _matrix(numbers, line)))
    if not rows:
        raise ConfigError("there is no row of numbers in it")
    return None, rows


def _numbers(text: str, line: int) -> list[float]:
    """Of a row; what follows # is a comment."""
    try:
        return [float(word) for word in re.split(r"[,\s]+", text.split("#", maxsplit=1)[0].strip()) if word]
    except ValueError as error:
        raise ConfigError(f"row {line}: {error}") from error


def _matrix(numbers: Sequence[float], line: int) -> Matrix:
    """(4, 4) of a row of 16, 12 or 8 numbers."""
    values = np.array(numbers)
    if len(values) != _TUM:
        return values.reshape(-1, 4) if len(values) == 16 else np.vstack([values.reshape(3, 4), (0, 0, 0, 1)])
    x, y, z, w = quaternion = values[4:]
    length = float(np.linalg.norm(quaternion))
    if not abs(length - 1) <= _UNIT:
        raise ConfigError(
            f"row {line}: the quaternion qx qy qz qw, its last four numbers, has the length {length:g}, expected 1"
        )
    x, y, z, w = quaternion / length
    matrix = np.eye(4)
    matrix[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    matrix[:3, 3] = values[1:4]
    return matrix


def _rigid(matrix: Matrix, *, where: str) -> Matrix:
    """The matrix, if it is a rotation and a translation; the rotation is then made one to the last digit."""
    if not np.isfinite(matrix).all():
        raise ConfigError(f"{where}: it holds NaN or infinity; leave frames without a pose out of the clip, too")
    try:
        rigid: Matrix = checked_pose(matrix).numpy()
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error
    left, _, right = np.linalg.svd(rigid[:3, :3])
    exact = np.eye(4)
    exact[:3, :3], exact[:3, 3] = left @ right, rigid[:3, 3]
    return exact


def _inverted(rigid: Matrix) -> Matrix:
    inverse = np.eye(4)
    inverse[:3, :3] = rigid[:3, :3].T
    inverse[:3, 3] = -rigid[:3, :3].T @ rigid[:3, 3]
    return inverse


def _check_metres(labels: Sequence[str], poses: Sequence[Matrix], source: str) -> None:
    """No camera that sees the same things again goes so far between two frames, but one in millimetres does."""
    places_m = np.stack([pose[:3, 3] for pose in poses])
    jumps_m = np.linalg.norm(np.diff(places_m, axis=0), axis=1)
    if (jumps_m > _MAX_JUMP_M).any():
        at = int((jumps_m > _MAX_JUMP_M).argmax())
        raise ConfigError(
            f"{source}: the camera goes {jumps_m[at]:g} m from {labels[at]} to {labels[at + 1]}, more than "
            f"{_MAX_JUMP_M:g} m between two frames; give metres (these may be millimetres), and poses in the frames' "
            "order"
        )
