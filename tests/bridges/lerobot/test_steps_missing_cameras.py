"""Cameras that are missing from the observation: the depth of those that are there goes by their names."""

from __future__ import annotations

from typing import Any

import pytest
import torch

pytest.importorskip("lerobot.policies", reason="needs lerobot, in an environment of its own: make test-lerobot")

from row_policies import PI0, PI0_FAST, PI05, SMOLVLA
from step_world import act, guard, head_for, images_of
from tiny_policies import POLICIES
from tiny_policy import CAMERAS, VIEWS, TinyPolicy, observation

from spaceclip_plugin.bridges.lerobot import DepthGuardStep, DepthProcessorStep

HERE = [tiny for tiny in (PI0, PI05, PI0_FAST, SMOLVLA) if tiny in POLICIES]


def without(batch: dict[str, Any], missing: str) -> dict[str, Any]:
    return {name: value for name, value in batch.items() if name != missing}


@pytest.mark.parametrize("tiny", HERE, ids=lambda tiny: tiny.name)
@pytest.mark.parametrize("placeholders", [0, 1])
@pytest.mark.parametrize("missing", [0, 1])
def test_the_camera_that_is_there_has_its_own_depth(tiny: TinyPolicy, placeholders: int, missing: int) -> None:
    policy = tiny.seeded(empty_cameras=placeholders)
    batch, there = observation(1), CAMERAS[1 - missing]
    head = head_for(policy)
    depth, last = DepthProcessorStep(head), DepthGuardStep(head, actions="velocity", guard=guard(cameras=VIEWS))
    alone = DepthGuardStep(head, actions="velocity", guard=guard(cameras=VIEWS[1 - missing : 2 - missing]))
    for step in (depth, last, alone):
        step.connect(policy)

    def look(seen: dict[str, Any], step: DepthGuardStep) -> dict[str, Any]:
        policy.reset()
        depth.reset()
        depth.observation(images_of(seen))
        step.action(act(policy, seen))
        return depth.observation(images_of(seen))

    wanted = look(batch, last)
    assert last.counts == {"pass": 1}
    found = look(without(batch, CAMERAS[missing]), last)
    assert last.counts == {"pass": 1, "stop": 1}
    assert VIEWS[missing] in last.decisions[0].reason
    assert torch.equal(found[f"{there}_depth"], wanted[f"{there}_depth"])
    assert found[f"{there}_depth_age"].tolist() == [1]
    assert f"{CAMERAS[missing]}_depth" not in found
    look(without(batch, CAMERAS[missing]), alone)
    assert alone.counts == {"pass": 1}
