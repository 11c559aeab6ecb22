"""Every example runs, is short, and the README's first example is one that works."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest
import transformers
from packaging.version import Version

from spaceclip_plugin.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
EPISODES = {"safety_filter.py": ["2"], "two_cameras.py": ["2"], "reach_in_mujoco.py": ["1"]}
"""Fewer than a reader would want."""
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


@pytest.mark.slow
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_an_example_runs(path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(path.read_text().splitlines()) < 60
    if "lerobot" in path.name:
        pytest.skip("run by tests/bridges/lerobot, with LeRobot and the packages it names installed: make test-lerobot")
    if "mujoco" in path.name:
        drawn_by_mujoco()
    monkeypatch.setattr(sys, "argv", [path.name, *EPISODES.get(path.name, [])])
    if "llava" in path.name and Version(transformers.__version__) < Version("4.46"):
        pytest.skip("LLaVA's prompt held one image token, not one a patch, before transformers 4.46")
    runpy.run_path(str(path), run_name="__main__")
    assert "identical=True" in capsys.readouterr().out


def drawn_by_mujoco() -> None:
    """Skips where MuJoCo is missing or has nothing to draw with."""
    from spaceclip_worlds.arm.world import ArmWorld

    try:
        with ArmWorld(0) as world:
            world.observe()
    except ConfigError as error:
        pytest.skip(str(error))
