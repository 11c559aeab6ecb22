"""The guide to steady depth: its lines run, and its words are those that steady depth says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from guide import run_guide
from torch import Tensor, nn

from spaceclip_plugin import DepthHead, DepthMap, Intrinsics, attach_depth_head
from spaceclip_plugin.steady import Steadiness, SteadyDepth, following, steady_depth, video

GUIDE = Path(__file__).resolve().parents[2] / "spaceclip_plugin" / "steady" / "README.md"


class Policy(nn.Module):
    """Something that looks before it acts."""

    def __init__(self) -> None:
        super().__init__()
        self.tower = timm.models.VisionTransformer(img_size=64, patch_size=8, embed_dim=24, depth=4, num_heads=2)

    @torch.no_grad()
    def select_action(self, observation: Tensor) -> Tensor:
        return self.tower(observation)


def test_its_lines_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    policy = Policy().eval()
    DepthHead.for_tower(policy).save_pretrained(tmp_path / "runs" / "kitchen" / "head")
    still = torch.rand(1, 3, 64, 64)
    names = {
        "attach_depth_head": attach_depth_head,
        "policy": policy,
        "camera": Intrinsics(50.0, 50.0, 32.0, 32.0, (64, 64)),
        "episode": [(still, torch.eye(4)), (still, torch.eye(4)), (still, None)],
    }
    told: list[Steadiness] = []
    update = SteadyDepth.update

    def kept(self: SteadyDepth, *given: Any) -> DepthMap:
        depth = update(self, *given)
        told.extend(depth.steady)
        return depth

    monkeypatch.setattr(SteadyDepth, "update", kept)
    run_guide(GUIDE, tmp_path, monkeypatch, **names)
    assert [one.reset for one in told] == [steady_depth.FIRST, None, None]
    assert [one.frames for one in told] == [1, 2, 3]


@pytest.mark.parametrize(
    "words",
    [
        *(steady_depth.FIRST, steady_depth.NOT_FINITE, video.CAMERA, video.PAUSED, video.CUT, video.NO_DEPTH),
        *(following.OTHERWISE, following.OTHER_WAY.partition(":")[0]),
    ],
)
def test_it_explains_every_word_that_is_said(words: str) -> None:
    assert f"| {words}" in GUIDE.read_text()
