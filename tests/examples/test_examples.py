"""Every example runs, is short, and the README's first example is one that works."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

import pytest
import torch
import transformers
from fresh_heads import fresh_head
from packaging.version import Version
from torch import Tensor, nn

from spaceclip_plugin import Intrinsics
from spaceclip_plugin.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
EPISODES = {"safety_filter.py": ["2"], "two_cameras.py": ["2"], "reach_in_mujoco.py": ["1"]}
"""Fewer than a reader would want."""
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


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


class Policy(nn.Module):
    """What the README's example assumes: a policy that looks at a camera image and acts."""

    def __init__(self) -> None:
        super().__init__()
        config = transformers.CLIPVisionConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=3,
            num_attention_heads=4,
            image_size=32,
            patch_size=8,
        )
        self.vision = transformers.CLIPVisionModel(config).eval()

    def select_action(self, observation: Tensor) -> Tensor:
        return self.vision(observation).pooler_output[:, :7]

    def forward(self, observation: Tensor) -> Tensor:
        return self.select_action(observation)


def test_the_readme_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[1]
    monkeypatch.chdir(tmp_path)
    policy = Policy()
    head = fresh_head(policy, taps=(1, 3), channels=(8, 6), convolutions=(1, 1), attention=0)
    head.save_pretrained("org/my-head")  # a folder of that name is read, and nobody asked
    names = {
        "policy": policy,
        "observation": torch.randn(1, 3, 32, 32),
        "intrinsics": Intrinsics.from_fovy(1.0, image_hw=(32, 32)),
    }
    with torch.no_grad():
        exec(compile(code, "README.md", "exec"), names)
    assert names["frame"].depth_m.shape == (1, 32, 32)
    assert not any(module._forward_hooks for module in policy.modules())
