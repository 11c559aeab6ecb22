"""Grafts on LeRobot's policies: the same bits until they learn, while acting and in LeRobot's own training loss."""

from __future__ import annotations

from typing import Any

import pytest
import torch

pytest.importorskip("lerobot.policies", reason="needs lerobot, in an environment of its own: make test-lerobot")

from row_policies import PI0, PI05, SMOLVLA
from step_world import head_for
from tiny_policy import ACTIONS, CAMERA_HW, CHUNK, VIEWS, TinyPolicy, observation

from spaceclip_plugin import Intrinsics, attach_depth_head
from spaceclip_plugin.graft import DepthGraft

LENS = Intrinsics(50.0, 50.0, 32.0, 24.0, CAMERA_HW)
EXPERT = {
    "pi0": "model.paligemma_with_expert.gemma_expert.model.layers",
    "pi05": "model.paligemma_with_expert.gemma_expert.model.layers",
    "smolvla": "model.vlm_with_expert.lm_expert.layers",
}


def acting(policy: Any) -> torch.Tensor:
    policy.reset()
    torch.manual_seed(0)
    return policy.select_action(observation(2))


def training(policy: Any) -> torch.Tensor:
    torch.manual_seed(0)
    actions = torch.randn(2, CHUNK, ACTIONS)
    loss, _ = policy.forward({**observation(2), "action": actions})
    return loss


def opened(graft: DepthGraft) -> DepthGraft:
    with torch.no_grad():
        for index in range(len(graft.layers)):
            torch.nn.init.normal_(graft.layer(index).out.weight, std=0.3)
    return graft


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("tiny", [PI0, PI05, SMOLVLA], ids=lambda tiny: tiny.name)
def test_depth_in_a_policy(tiny: TinyPolicy, dtype: str) -> None:
    policy = tiny.seeded(dtype).requires_grad_(False)
    policy.train()
    before = {training: training(policy)}
    policy.eval()
    before[acting] = acting(policy)
    depth = attach_depth_head(policy, head_for(policy), cameras=dict.fromkeys(VIEWS, LENS))
    graft = DepthGraft.for_policy(policy, depth)
    assert graft.config.blocks == tuple(f"{EXPERT[tiny.name]}.{i}.mlp" for i in (0, 1))
    with graft.attach(policy, depth) as live:
        for run, mode in ((training, True), (acting, False)):
            policy.train(mode)
            graft.train(mode)
            assert torch.equal(run(policy), before[run])
            assert [one.camera for one in live.depth] == [*VIEWS]
        opened(graft)
        assert not torch.equal(acting(policy), before[acting])
        policy.train()
        loss = training(policy)
        assert not torch.equal(loss, before[training])
        loss.backward()
    assert all(one.grad is not None and one.grad.any() for one in graft.parameters())
    assert all(one.grad is None for one in policy.parameters())
    assert torch.equal(acting(policy.eval()), before[acting])


def test_gradient_checkpointing_gives_the_same_gradients() -> None:
    policy = PI0.seeded().requires_grad_(False).train()
    depth = attach_depth_head(policy, head_for(policy), cameras=dict.fromkeys(VIEWS, LENS))
    graft = opened(DepthGraft.for_policy(policy, depth, dropout=0.0))
    grads = []
    with graft.attach(policy, depth):
        for start in (lambda: None, policy.model.gradient_checkpointing_enable):
            start()
            graft.zero_grad()
            training(policy).backward()
            grads.append([one.grad for one in graft.parameters()])
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(other, one)
