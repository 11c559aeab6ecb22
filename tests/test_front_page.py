"""The README: a page that is read, whose commands are run."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from guide import run_guide
from PIL import Image

from spaceclip_plugin import DepthMap

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
POLICY = """
import torch
import transformers


class Policy(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.vision = transformers.CLIPVisionModel(
            transformers.CLIPVisionConfig(
                hidden_size=32, intermediate_size=64, num_hidden_layers=12, num_attention_heads=2, image_size=224,
                patch_size=32,
            )
        )

    @torch.no_grad()
    def select_action(self, observation):
        return self.vision(observation["image"]).pooler_output[:, :7]


def build():
    torch.manual_seed(0)
    return Policy().eval()
"""


def test_it_is_a_page() -> None:
    lines = README.read_text().splitlines()
    assert len(lines) <= 120
    makefile = (ROOT / "Makefile").read_text()
    targets = [match for line in lines if (match := re.match(r"make ([\w-]+)", line))]
    assert len(targets) == 2
    for target in targets:
        assert re.search(rf"^{target[1]}:", makefile, re.MULTILINE)


@pytest.mark.slow
def test_its_commands_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    (tmp_path / "my_policy.py").write_text(POLICY)
    (tmp_path / "photos").mkdir()
    for split in ("train", "val", "test"):
        names = [(f"{split}{number}.png", f"{split}{number}_depth.png") for number in range(4)]
        for photo, depth in names:
            Image.fromarray(random.integers(0, 255, (48, 64, 3), dtype=np.uint8)).save(tmp_path / photo)
            slope = np.linspace(1000, 4000, 64) + random.uniform(0, 500)
            Image.fromarray(np.broadcast_to(slope, (48, 64)).astype(np.uint16)).save(tmp_path / depth)
        (tmp_path / f"{split}.txt").write_text("".join(f"{photo} {depth}\n" for photo, depth in names))
    Image.fromarray(random.integers(0, 255, (48, 64, 3), dtype=np.uint8)).save(tmp_path / "photos" / "one.png")
    # The page shows how to attach before how to train: its Python is run last.
    shell = tmp_path / "shell.md"
    text = README.read_text()
    python = re.search(r"^```python\n.*?^```$", text, re.MULTILINE | re.DOTALL)
    assert python is not None
    shell.write_text(text.replace(python[0], "") + f"\n{python[0]}\n")
    session: dict[str, object] = {}
    exec(POLICY, session)
    policy = session["Policy"]().eval()
    seen: list[DepthMap] = []
    with pytest.MonkeyPatch.context() as patch:
        points = DepthMap.points
        patch.setattr(DepthMap, "points", lambda self, *given: (seen.append(self), points(self, *given))[1])
        run_guide(
            shell,
            tmp_path,
            monkeypatch,
            policy=policy,
            observation={"image": torch.rand(1, 3, 224, 224)},
        )
    [frame] = seen
    assert frame.depth_m.shape == (1, 480, 640)
    assert frame.valid.any()
    assert frame.lens == "known"
    assert len(list((tmp_path / "depth").iterdir())) > 0
