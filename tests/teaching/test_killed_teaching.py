"""`spaceclip teach` is killed (SIGKILL), given again, and leaves every byte that an undisturbed one leaves."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from importlib.metadata import entry_points
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scripts import script_environment
from tiny_teachers import save_teacher
from wall_teacher import HW, save_photos

from spaceclip_plugin.teaching import TaughtDepth
from spaceclip_plugin.teaching.teacher import GROUP

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        "hf" not in {point.name for point in entry_points(group=GROUP)},
        reason="the package was installed before it had teachers: install it again",
    ),
]
SCRIPT = Path(__file__).with_name("killed_teaching.py")
PHOTOS = 24


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos of which two are measured, a random teacher, a mask, and what is taught undisturbed."""
    folder = tmp_path_factory.mktemp("place")
    save_photos(folder / "kitchen", PHOTOS, measured=(1, 5))
    save_teacher(folder / "teacher")
    mask = np.zeros(HW, np.uint8)
    mask[-4:] = 255
    Image.fromarray(mask).save(folder / "mask.png")
    assert taught(folder, "whole") == 0
    return folder


def command(place: Path, out: str, moment: str) -> list[str]:
    words = ["--data", f"folder:{place / 'kitchen'}", "--teacher", f"hf:{place / 'teacher'}", "--device", "cpu"]
    words += ["--mask", str(place / "mask.png"), "--depth-range", "0.0001,1000", "--out", str(place / out)]
    return [sys.executable, str(SCRIPT), moment, *words]


def taught(place: Path, out: str, moment: str = "never") -> int:
    done = subprocess.run(command(place, out, moment), env=script_environment(), capture_output=True, text=True)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.name != ".lock"}


def test_at_any_moment(place: Path) -> None:
    for moment in ("photo 4", "taught-00002.safetensors", "mask.png", "teacher.json"):
        assert taught(place, "killed", moment) == -signal.SIGKILL, moment
        assert "teacher.json" not in content(place / "killed")
    assert taught(place, "killed") == 0
    whole = content(place / "whole")
    assert len(whole) == PHOTOS // 2 + 2  # shards, mask and record
    assert content(place / "killed") == whole
    assert len(TaughtDepth(place / "killed")) == PHOTOS


def test_from_outside(place: Path) -> None:
    begun = command(place, "stopped", "never")
    process = subprocess.Popen(begun, env=script_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (place / "stopped" / "taught-00001.safetensors").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.001)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert "teacher.json" not in content(place / "stopped")
    assert taught(place, "stopped") == 0
    assert content(place / "stopped") == content(place / "whole")
