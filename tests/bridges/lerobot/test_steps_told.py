"""A policy that is told is read without a word; one that is guessed is named, once."""

from __future__ import annotations

import gc
import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from spaceclip_plugin.errors import ConfigError, HostError

pytest.importorskip("lerobot.policies", reason="needs lerobot, in an environment of its own: make test-lerobot")

from row_policies import SMOLVLA
from step_world import LENIENT, TOP, act, add_both, guard, head_for, images_of, loaded, pipelines
from tiny_policy import observation

from spaceclip_plugin.bridges.lerobot import DepthGuardStep, DepthProcessorStep
from spaceclip_plugin.guard import DepthGuard, GuardLimits


@pytest.fixture
def policy() -> Any:
    gc.collect()
    return SMOLVLA.seeded()


def guesses(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Warnings that a policy was guessed."""
    found = [record for record in caplog.records if "guessed" in record.getMessage()]
    assert all(record.levelno == logging.WARNING for record in found)
    return [record.getMessage() for record in found]


def test_a_guess_is_said_once_for_both_steps(policy: Any, caplog: pytest.LogCaptureFixture) -> None:
    preprocessor, postprocessor = pipelines(policy)
    add_both(preprocessor, postprocessor, head_for(policy), guard=LENIENT)
    for _ in range(3):
        preprocessor(observation(1))
        postprocessor(act(policy, observation(1)))
    [message] = guesses(caplog)
    for word in ("SmolVLAPolicy", "connect(policy)", "policy=policy"):
        assert word in message


def test_nothing_is_guessed_where_the_policy_is_told(policy: Any, caplog: pytest.LogCaptureFixture) -> None:
    other = SMOLVLA.seeded()  # which would make a guess impossible
    preprocessor, postprocessor = pipelines(policy)
    add_both(preprocessor, postprocessor, head_for(policy), guard=LENIENT, policy=policy)
    preprocessor(observation(1))
    postprocessor(act(policy, observation(1)))
    assert postprocessor.steps[-1].counts == {"pass": 1}
    assert not guesses(caplog)
    del other


def test_loaded_pipelines_are_told_by_an_override(
    policy: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    preprocessor, postprocessor = pipelines(policy)
    add_both(preprocessor, postprocessor, head_for(policy), guard=LENIENT, fresh=True)
    for pipeline in (preprocessor, postprocessor):
        pipeline.save_pretrained(tmp_path)
    other = SMOLVLA.seeded()
    told = {"policy": policy}
    preprocessor, postprocessor = loaded(
        policy,
        tmp_path,
        preprocessor_overrides={"spaceclip_depth": told},
        postprocessor_overrides={"spaceclip_depth_guard": told},
    )
    assert int(preprocessor(observation(1))[f"{TOP}_depth_age"]) == 0
    postprocessor(act(policy, observation(1)))
    assert postprocessor.steps[-1].counts == {"pass": 1}
    assert not guesses(caplog)
    assert "policy" not in preprocessor.steps[2].get_config()
    del other


def test_weights_that_come_later_leave_it_told(policy: Any, caplog: pytest.LogCaptureFixture) -> None:
    other = SMOLVLA.seeded()
    head = head_for(policy)
    connected = DepthProcessorStep(head, fresh=True)
    connected.connect(policy)
    for step in (DepthProcessorStep(head.config.to_dict(), fresh=True, policy=policy), connected):
        step.load_state_dict(head.state_dict())
        assert int(step.observation(images_of(observation(1)))[f"{TOP}_depth_age"]) == 0
    assert not guesses(caplog)
    del other


def test_one_that_is_gone_is_no_longer_told(policy: Any, caplog: pytest.LogCaptureFixture) -> None:
    first = SMOLVLA.seeded()
    step = DepthProcessorStep(head_for(first), fresh=True, policy=first)
    step.observation(images_of(observation(1)))
    assert not guesses(caplog)
    del first
    gc.collect()
    assert int(step.observation(images_of(observation(1)))[f"{TOP}_depth_age"]) == 0
    assert len(guesses(caplog)) == 1


def test_a_policy_in_a_wrapper(policy: Any, caplog: pytest.LogCaptureFixture) -> None:
    """PEFT, DDP and torch.compile hold the policy; both steps read it, its images prepared by its own function."""
    head = head_for(policy)
    plain = DepthProcessorStep(head, fresh=True, policy=policy).observation(images_of(observation(1)))
    wrapped = torch.nn.ModuleDict({"base_model": policy})
    step = DepthProcessorStep(head, fresh=True)
    step.connect(wrapped)
    assert torch.equal(step.observation(images_of(observation(1)))[f"{TOP}_depth"], plain[f"{TOP}_depth"])
    assert not guesses(caplog)


@pytest.mark.parametrize("given", ["policy", 3, object()])
def test_no_policy(policy: Any, given: Any) -> None:
    with pytest.raises(HostError, match=r"takes the live policy, a torch\.nn\.Module"):
        DepthProcessorStep(head_for(policy), policy=given)
    with pytest.raises(HostError, match=r"takes the live policy, a torch\.nn\.Module"):
        DepthGuardStep(head_for(policy), actions="velocity", policy=given)


def test_a_refused_policy_is_not_connected(policy: Any) -> None:
    policy.config.n_action_steps = 50
    step = DepthGuardStep(
        head_for(policy), actions="velocity", guard=DepthGuard(GuardLimits(stop_below_m=0.0, slow_below_m=0.0))
    )
    for _ in range(2):
        with pytest.raises(ConfigError, match="n_action_steps=50"):
            step.connect(policy)
    step.guard = guard()
    step.connect(policy)
    action = act(policy, observation(1))
    assert torch.equal(step.action(action), action)
