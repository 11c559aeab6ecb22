"""The guide to grafts: its lines run, and its figures are those of the layers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from guide import run_guide
from small_world import tiny_mixer
from tiny_vla import LENSES, TinyVla, observation, tiny_vla
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from spaceclip_plugin.graft import DepthGraft, GraftConfig
from spaceclip_plugin.graft.bank import PLACE_FEATURES, Bank

GUIDE = Path(__file__).resolve().parents[2] / "spaceclip_plugin" / "graft" / "README.md"


class Policy(TinyVla):
    """With the two calls of LeRobot's policies."""

    def forward(self, batch: Any, *_: Any) -> Any:
        actions = super().forward(*batch)
        return actions.square().mean(), {}

    def select_action(self, batch: Any) -> Tensor:
        return super().forward(*batch)[:, 0]


def test_its_lines_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = Policy().eval()
    policy.load_state_dict(tiny_vla().state_dict())
    tiny_mixer(policy.tower).save_pretrained(tmp_path / "runs" / "kitchen" / "head")
    batches = [observation(seed=seed) for seed in range(2)]
    names = {"policy": policy, "camera": LENSES["front"], "torch": torch}
    run_guide(GUIDE, tmp_path, monkeypatch, **names, batches=batches, observation=batches[0])
    graft = DepthGraft.from_pretrained(tmp_path / "runs" / "kitchen" / "graft")
    assert all(graft.layer(index).out.weight.any() for index in range(len(graft.layers)))


def test_what_it_costs() -> None:
    config = GraftConfig(
        blocks=tuple("abcd"),
        widths=((720, 720),) * 4,
        cameras=tuple("xyz"),
        look_width=4 * 768,
        head_digest="-",
        blocks_digest="-",
    )
    cells = 3 * 64
    with torch.device("meta"), torch.no_grad():
        graft = DepthGraft(config)
        look, place = torch.zeros(1, cells, config.look_width), torch.zeros(1, cells, PLACE_FEATURES)
        bank = Bank(look, place, torch.zeros(cells, dtype=torch.long), torch.ones(1, cells, dtype=torch.bool))
        with FlopCounterMode(display=False) as of_forward:
            read = graft.keys_and_values(bank)
        with FlopCounterMode(display=False) as of_step:
            for index, (keys, values) in enumerate(read):
                graft.layer(index)(torch.zeros(1, 50, 720), keys, values, bank.valid)
    parameters = sum(parameter.numel() for parameter in graft.parameters())
    forward, step = (counter.get_total_flops() / 1e9 for counter in (of_forward, of_step))
    said = f"{parameters:,} parameters, and takes {forward:.3f} GFLOP a forward and {step:.3f} a denoising step"
    assert said in " ".join(GUIDE.read_text().split())
