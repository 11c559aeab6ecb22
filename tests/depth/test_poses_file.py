"""Where a camera was, as robots, SLAM and renderers write it: the matrix, the order, and what is refused by row."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from spaceclip_plugin.depth.poses_file import CameraPoses, read_poses
from spaceclip_plugin.errors import ConfigError


def pose(degrees: float, place_m: tuple[float, float, float]) -> np.ndarray:
    """Turned about the camera's y axis, and moved."""
    angle = math.radians(degrees)
    matrix = np.eye(4)
    matrix[:3, :3] = [[math.cos(angle), 0, math.sin(angle)], [0, 1, 0], [-math.sin(angle), 0, math.cos(angle)]]
    matrix[:3, 3] = place_m
    return matrix


POSES = [pose(30 * number, (0.1 * number, 0.5, -1.0)) for number in range(3)]


def row(matrix: np.ndarray) -> str:
    return " ".join(f"{value:.9g}" for value in matrix.reshape(-1))


def tum(number: int, matrix: np.ndarray, degrees: float) -> str:
    """A line of a trajectory; the quaternion of a turn about y is (0, sin a/2, 0, cos a/2)."""
    half = math.radians(degrees) / 2
    return f"{1305031102.1 + number:.4f} {row(matrix[:3, 3])} 0 {math.sin(half):.6f} 0 {math.cos(half):.6f}"


def write(folder: Path, text: str, name: str = "poses.txt") -> Path:
    (folder / name).write_text(text)
    return folder / name


FILES = {
    "16.txt": "\n".join(row(matrix) for matrix in POSES),
    "12.txt": "# camera to world\n" + "\n\n".join(row(matrix[:3]) for matrix in POSES) + "  # the last\n",
    "12.csv": "\n".join(row(matrix[:3]).replace(" ", ", ") for matrix in POSES),
    "tum.txt": "# timestamp tx ty tz qx qy qz qw\n"
    + "\n".join(tum(number, matrix, 30 * number) for number, matrix in enumerate(POSES)),
    "poses.json": json.dumps({f"{number:03d}": matrix.tolist() for number, matrix in enumerate(POSES)}),
}


class TestWhatIsRead:
    @pytest.mark.parametrize("name", FILES)
    def test_every_kind(self, tmp_path: Path, name: str) -> None:
        poses = read_poses(write(tmp_path, FILES[name], name))
        np.testing.assert_allclose(poses.of_frames(["000", "001", "002"]), POSES, atol=2e-6)

    def test_the_other_way_round(self, tmp_path: Path) -> None:
        inverse = write(tmp_path, "\n".join(row(np.linalg.inv(matrix)) for matrix in POSES))
        poses = read_poses(inverse, poses_are="world-to-camera")
        np.testing.assert_allclose(poses.of_frames(["a", "b", "c"]), POSES, atol=1e-8)

    def test_rotations_become_exact(self, tmp_path: Path) -> None:
        rounded = [np.round(matrix, 4) for matrix in POSES]
        rotations = read_poses(write(tmp_path, "\n".join(map(row, rounded)))).camera_to_world[:, :3, :3]
        np.testing.assert_allclose(rotations @ rotations.transpose(0, 2, 1), np.tile(np.eye(3), (3, 1, 1)), atol=1e-14)
        np.testing.assert_allclose(rotations, [matrix[:3, :3] for matrix in POSES], atol=1e-4)

    @pytest.mark.real
    def test_a_real_arm(self, real_data: Path) -> None:
        shelf = real_data / "cameras" / "wrist_shelf"
        names = sorted(path.stem for path in (shelf / "rgb").iterdir())
        found = read_poses(shelf / "poses.json").of_frames(names)
        given = json.loads((shelf / "poses.json").read_text())
        np.testing.assert_allclose(found, [given[name] for name in names], atol=2e-6)


class TestFrames:
    POSES = CameraPoses("poses.json", np.stack(POSES), ("a", "10", "009"))

    def test_by_their_names(self) -> None:
        found = self.POSES.of_frames(["009", "10", "a"])
        np.testing.assert_array_equal(found, POSES[::-1])

    def test_numbers_by_their_value(self) -> None:
        np.testing.assert_array_equal(self.POSES.of_frames(["00010", "9", "a"]), [POSES[1], POSES[2], POSES[0]])

    def test_one_without_a_pose(self) -> None:
        with pytest.raises(ConfigError, match="'b'"):
            self.POSES.of_frames(["a", "b", "10"])

    @pytest.mark.parametrize("names", [["a", "10"], ["a", "10", "9", "8"]])
    def test_more_or_fewer_than_poses(self, names: list[str]) -> None:
        for poses in (self.POSES, CameraPoses("poses.txt", np.stack(POSES))):
            with pytest.raises(ConfigError, match=f"3 poses.* {len(names)} frames"):
                poses.of_frames(names)

    def test_two_names_of_one_number(self) -> None:
        with pytest.raises(ConfigError, match="'01'"):
            CameraPoses("poses.json", np.stack(POSES), ("1", "01", "2")).of_frames(["1", "2", "3"])


def changed(number: int, change: np.ndarray) -> str:
    """Three rows of 16 numbers, one of them another pose."""
    return "\n".join(row(change if at == number else matrix) for at, matrix in enumerate(POSES))


MIRROR, TWICE, SHEARED = np.diag([1.0, 1.0, -1.0, 1.0]), np.diag([2.0, 2.0, 2.0, 1.0]), np.eye(4)
SHEARED[0, 1] = 0.01
FAR = pose(0, (0.0, 0.0, 900.0))
REFUSED = {
    "mirrors": (changed(1, MIRROR), "row 2: .*determinant of R is -1"),
    "scale": (changed(1, TWICE), r"row 2: .*off the identity by 3\b"),
    "shear": (changed(2, SHEARED), r"row 3: .*off the identity by 0\.01"),
    "by columns": (changed(1, POSES[1].T), "row 2: .*last row"),
    "nan": (changed(1, POSES[1] * np.nan), "row 2: .*NaN"),
    "infinite": (FILES["tum.txt"].replace("0.5", "inf", 1), "row 2: .*infinity"),
    "millimetres": (changed(1, FAR), "from row 1 to row 2"),
    "a number too few": (FILES["16.txt"] + "\n1 2 3", "row 4 has 3 numbers"),
    "no such rows": ("1 2 3 4 5 6 7", "row 1 has 7 numbers"),
    "words": ("one two", "row 1"),
    "no rows": ("# nothing\n", "no row"),
    "a quaternion": (FILES["tum.txt"].replace("1.000000", "1.100000", 1), r"row 2: the quaternion .* 1\.1"),
    "times": (FILES["tum.txt"] + "\n" + tum(0, POSES[0], 0), "row 5 is of the time"),
}


class TestRefusals:
    @pytest.mark.parametrize("kind", REFUSED)
    def test_a_row(self, tmp_path: Path, kind: str) -> None:
        text, said = REFUSED[kind]
        with pytest.raises(ConfigError, match=said) as refused:
            read_poses(write(tmp_path, text))
        assert "poses.txt" in str(refused.value)

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            ({"a": POSES[0].tolist(), "b": MIRROR.tolist()}, "'b': .*determinant"),
            ({"a": POSES[0][:3].tolist()}, "'a' is no 4x4"),
            ({"a": [[1, 2], [3]]}, "'a' is no 4x4"),
            ({"a": [["1"] * 4] * 4}, "'a' is no 4x4"),
            ({"a": [[True] * 4] * 4}, "'a' is no 4x4"),
            ({"a": [[10**400] * 4] * 4}, "'a' is no 4x4"),
            ({"a": None}, "'a' is no 4x4"),
            ({}, "empty"),
            ([], "list"),
        ],
    )
    def test_an_object(self, tmp_path: Path, content: object, said: str) -> None:
        with pytest.raises(ConfigError, match=said) as refused:
            read_poses(write(tmp_path, json.dumps(content), "poses.json"))
        assert "poses.json" in str(refused.value)

    def test_no_file_and_no_text(self, tmp_path: Path) -> None:
        for path in (tmp_path / "absent.txt", tmp_path / "absent.json", tmp_path):
            with pytest.raises(ConfigError, match=str(path)):
                read_poses(path)
        (tmp_path / "a.txt").write_bytes(b"\xff\xfe\x00")
        with pytest.raises(ConfigError, match=r"a\.txt"):
            read_poses(tmp_path / "a.txt")
