"""`spaceclip predict` stopped in the middle: whole files or none, and it can be run again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from photo_world import Run, head, photo, predict
from PIL import Image

from spaceclip_plugin.cli import predict as command

__all__ = ["head", "predict"]  # fixtures


def test_an_interruption(predict: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mcap_ros2", reason="needs mcap-ros2-support: pip install mcap-ros2-support")
    shots = [photo(tmp_path / f"{name}.png", (8, 8)) for name in "abc"]
    given = ["--intrinsics", "8,8,4,4", "--out", tmp_path / "out", "--mcap", tmp_path / "all.mcap"]
    write = command.write_files

    def stopped(shot: command.Shot, *args: object, **settings: object) -> None:
        if shot.source.stem == "b":
            raise KeyboardInterrupt
        write(shot, *args, **settings)

    with monkeypatch.context() as patch:
        patch.setattr(command, "write_files", stopped)
        assert predict(*shots, *given)[0] == 130
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.ply", "a_depth.png", "a_picture.png"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.png", "c.png", "out"]
    assert predict(*shots, *given, "--overwrite")[0] == 0
    assert len(list((tmp_path / "out").iterdir())) == 9
    assert (tmp_path / "all.mcap").is_file()


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is POSIX's")
def test_a_kill(head: Path, predict: Run, tmp_path: Path) -> None:
    """A process that nothing tells that it ends: what it left is whole, or hidden and nobody's photo."""
    for i in range(3):
        photo(tmp_path / "in" / f"{i}.png", (8, 8))
    script = (
        "import os, signal, sys\n"
        "from spaceclip_plugin.cli import main\n"
        "from PIL import Image\n"
        "save = Image.Image.save\n"
        "def half(self, path, **settings):\n"
        "    save(self, path, **settings)\n"
        "    if '1_picture' in str(path):\n"
        "        os.truncate(path, 20)\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "Image.Image.save = half\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    argv = ["predict", "--host", "python:users_policy:build", "--head", str(head), str(tmp_path / "in")]
    argv += ["--out", str(tmp_path / "out")]
    killed = subprocess.run([sys.executable, "-c", script, *argv], cwd=Path(__file__).parent, capture_output=True)
    assert killed.returncode == -signal.SIGKILL
    seen = sorted(path.name for path in (tmp_path / "out").iterdir() if not path.name.startswith("."))
    assert seen == ["0_depth.png", "0_picture.png", "1_depth.png"]
    for name in seen:
        with Image.open(tmp_path / "out" / name) as image:
            assert np.asarray(image).size
    code, _, err = predict(tmp_path / "in", "--out", tmp_path / "out")
    assert code == 1
    assert "1_depth.png" in err
    assert predict(tmp_path / "in", "--out", tmp_path / "out", "--overwrite")[0] == 0
    assert sorted(path.name for path in (tmp_path / "out").glob("[!.]*")) == [
        f"{i}_{kind}.png" for i in range(3) for kind in ("depth", "picture")
    ]
