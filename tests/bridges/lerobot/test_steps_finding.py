"""How LeRobot's two depth steps find the policy they read, and let go of it."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from typing import Any

import pytest
import torch

from spaceclip_plugin.errors import HeadMismatchError, HostError

pytest.importorskip("lerobot.policies", reason="needs lerobot, in an environment of its own: make test-lerobot")

from packed_policies import XVLA
from row_policies import SMOLVLA
from step_world import LENIENT, TOP, act, head_for, images_of
from tiny_policy import observation

from spaceclip_plugin.bridges.lerobot import DepthGuardStep, DepthProcessorStep


@pytest.fixture
def policy() -> Any:
    gc.collect()
    return SMOLVLA.seeded()


class TestFinding:
    def test_the_only_one_alive(self, policy: Any) -> None:
        step = DepthProcessorStep(head_for(policy), fresh=True)
        assert int(step.observation(images_of(observation(1)))[f"{TOP}_depth_age"]) == 0

    def test_two_alive(self, policy: Any) -> None:
        other = SMOLVLA.seeded()
        step = DepthProcessorStep(head_for(policy), fresh=True)
        with pytest.raises(HostError, match=r"2 LeRobot policies alive .* SmolVLAPolicy, SmolVLAPolicy; call connect"):
            step.observation(images_of(observation(1)))
        step.connect(other)
        assert int(step.observation(images_of(observation(1)))[f"{TOP}_depth_age"]) == 0

    def test_two_alive_of_which_the_head_fits_one(self, policy: Any) -> None:
        other = XVLA.seeded()
        step = DepthProcessorStep(head_for(other), fresh=True)
        assert int(step.observation(images_of(observation(1)))[f"{TOP}_depth_age"]) == 0
        step = DepthGuardStep(head_for(policy), actions="velocity", guard=LENIENT)
        act(policy, observation(1))
        step.action(torch.ones(1, 6))
        assert step.decisions[0].reason == "there is no depth yet"  # it was not linked while the policy ran

    def test_one_that_was_dropped_does_not_count(self, policy: Any) -> None:
        dropped = SMOLVLA.seeded()
        dropped.itself = [dropped]  # a cycle, left to the collector
        gc.disable()
        try:
            del dropped
            step = DepthProcessorStep(head_for(policy), fresh=True)
            assert int(step.observation(images_of(observation(1)))[f"{TOP}_depth_age"]) == 0
        finally:
            gc.enable()

    def test_none_alive(self) -> None:
        head = head_for(SMOLVLA.seeded())
        gc.collect()
        with pytest.raises(HostError, match=r"no LeRobot policy alive .*\(alive: none\)"):
            DepthProcessorStep(head).observation(images_of(observation(1)))

    def test_none_that_fits(self, policy: Any) -> None:
        other = XVLA.seeded()
        head = head_for(other)
        del other
        with pytest.raises(HostError, match=r"has a tower that this head fits \(alive: SmolVLAPolicy\)"):
            DepthProcessorStep(head).observation(images_of(observation(1)))
        with pytest.raises(HeadMismatchError):
            DepthProcessorStep(head).connect(policy)
        with pytest.raises(HostError, match="takes the live policy"):
            DepthProcessorStep(head).connect("policy")  # type: ignore[arg-type]

    def test_a_policy_that_is_dropped_is_released(self) -> None:
        policy = SMOLVLA.seeded()
        steps = [DepthProcessorStep(head_for(policy)), DepthGuardStep(head_for(policy), actions="velocity")]
        for step in steps:
            step.connect(policy)
        act(policy, observation(1))
        tower = policy.get_submodule(SMOLVLA.path)
        assert hooked(tower)
        gone, gone_too = weakref.ref(policy), weakref.ref(tower)
        del policy
        gc.collect()
        assert gone() is None
        assert not hooked(tower)
        del tower
        gc.collect()
        assert gone_too() is None

    def test_the_next_policy_is_found(self) -> None:
        first = SMOLVLA.seeded()
        step = DepthProcessorStep(head_for(first), fresh=True)
        before = step.observation(images_of(observation(1)))[f"{TOP}_depth"]
        del first
        gc.collect()
        second = SMOLVLA.seeded()
        assert torch.equal(step.observation(images_of(observation(1)))[f"{TOP}_depth"], before)
        del second

    def test_dropped_steps_take_their_hooks_along(self, policy: Any) -> None:
        step = DepthProcessorStep(head_for(policy))
        step.connect(policy)
        del step
        gc.collect()
        assert not hooked(policy)
        DepthProcessorStep(head_for(policy, seed=4)).connect(policy)

    def test_both_steps_share_one_attachment(self, policy: Any) -> None:
        head = head_for(policy)
        steps = [DepthProcessorStep(head), DepthGuardStep(copy.deepcopy(head), actions="velocity", guard=LENIENT)]
        steps[0].connect(policy)
        hooks = [len(module._forward_hooks) for module in policy.modules()]
        steps[1].connect(policy)
        assert [len(module._forward_hooks) for module in policy.modules()] == hooks
        with pytest.raises(HostError, match="another head"):
            DepthProcessorStep(head_for(policy, seed=4)).connect(policy)

    def test_a_copy_finds_its_policy_anew(self, policy: Any) -> None:
        step = DepthProcessorStep(head_for(policy), fresh=True, cameras=("top",))
        step.connect(policy)
        seen = step.observation(images_of(observation(1)))
        for other in (copy.deepcopy(step), pickle.loads(pickle.dumps(step))):
            again = other.observation(images_of(observation(1)))
            assert torch.equal(again[f"{TOP}_depth"], seen[f"{TOP}_depth"])
        copied = copy.deepcopy(policy)
        assert torch.equal(act(copied, observation(1)), act(policy, observation(1)))


def hooked(host: Any) -> bool:
    return any(module._forward_hooks or module._forward_pre_hooks for module in host.modules())
