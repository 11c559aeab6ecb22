"""A frame as a file: the same bits, or a refusal."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from spaceclip_plugin import Intrinsics
from spaceclip_plugin.errors import CheckpointError
from spaceclip_worlds.metaworld.frame import Frame, read_frame, write_frame


def frame(height: int = 11, width: int = 7) -> Frame:
    generator = np.random.default_rng(5)
    depth_m = generator.uniform(0.2, 6.0, (height, width)).astype(np.float32)
    depth_m[0, :4] = [np.inf, np.float32(1e-45), np.float32(3.4e38), 0.0]
    pose = np.eye(4)
    pose[:3, 3] = generator.normal(size=3)
    image = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Frame(image, depth_m, Intrinsics.from_fovy(1.0471, (height, width)), "corner2", pose)


@pytest.mark.parametrize("hw", [(11, 7), (1, 1), (1, 9), (9, 1)])
def test_the_same_bits_come_back(hw: tuple[int, int], tmp_path: Path) -> None:
    written = (
        frame(*hw)
        if hw == (11, 7)
        else Frame(
            np.full((*hw, 3), 7, np.uint8),
            np.full(hw, 0.1, np.float32),
            Intrinsics.from_fovy(1.0, hw),
            "corner",
            np.eye(4),
        )
    )
    write_frame(tmp_path / "new" / "frame.safetensors", written, shows="a drawer")
    read = read_frame(tmp_path / "new" / "frame.safetensors", shows="a drawer")
    assert read.depth_m.tobytes() == written.depth_m.tobytes()
    assert (read.depth_m.dtype, read.depth_m.shape) == (np.float32, hw)
    np.testing.assert_array_equal(read.image, written.image)
    np.testing.assert_array_equal(read.camera_to_world, written.camera_to_world)
    assert (read.intrinsics, read.camera) == (written.intrinsics, written.camera)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["frame.safetensors"]


def test_equal_frames_make_equal_files(tmp_path: Path) -> None:
    for name in ("one", "other"):
        write_frame(tmp_path / name, frame(), shows="a drawer")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()


def test_any_damage_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "frame.safetensors"
    write_frame(path, frame(), shows="a drawer")
    whole = path.read_bytes()
    for place in range(0, len(whole), 17):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(CheckpointError, match="frame"):
            read_frame(path, shows="a drawer")
    for size in (0, 7, 100, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(CheckpointError, match="frame"):
            read_frame(path, shows="a drawer")


def test_a_file_of_something_else_is_an_error(tmp_path: Path) -> None:
    write_frame(tmp_path / "frame", frame(), shows="a drawer")
    with pytest.raises(CheckpointError, match=r"'a drawer'.*'a door'"):
        read_frame(tmp_path / "frame", shows="a door")
    with pytest.raises(CheckpointError, match="absent"):
        read_frame(tmp_path / "absent", shows="a door")
