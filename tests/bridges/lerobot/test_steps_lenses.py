"""The steps bring depth to metres of the robot's cameras, and keep their intrinsics; without LeRobot by stand-ins."""

from __future__ import annotations

import importlib
import json
import logging
import sys
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import timm
import torch
from heads_that_tell import telling
from torch import nn

from spaceclip_plugin import DepthHead
from spaceclip_plugin.bridges.lerobot.lenses import as_lists, checked_intrinsics
from spaceclip_plugin.depth import Intrinsics
from spaceclip_plugin.errors import ConfigError, HostError
from spaceclip_plugin.guard import DepthGuard, GuardLimits

STEPS = "spaceclip_plugin.bridges.lerobot.steps"
FRONT = "observation.images.front"
LONG = [64.0, 48.0, 16.0, 12.0, 24, 32]  # twice as long as the head assumes
LIMITS = {"stop_below_m": 0.0, "slow_below_m": 0.0, "frozen_after": None, "allow_untrained": True}


class Policy(nn.Module):
    """A tower, and what LeRobot's configuration says of its one camera."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 2, "num_classes": 0}
            self.vision = timm.create_model("vit_tiny_patch16_224", **sizes).eval()
        self.config = SimpleNamespace(image_features={FRONT: SimpleNamespace(shape=(3, 24, 32))}, n_action_steps=1)


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    try:
        importlib.import_module("lerobot.processor")
    except ImportError:
        stand_in: Any = ModuleType("lerobot.processor")
        stand_in.ObservationProcessorStep = stand_in.PolicyActionProcessorStep = type("Step", (), {})
        stand_in.ProcessorStepRegistry = SimpleNamespace(register=lambda _name: lambda kind: kind)
        stand_in.TransitionKey = SimpleNamespace(ACTION="action")
        types: Any = ModuleType("lerobot.configs.types")
        types.FeatureType = types.PipelineFeatureType = types.PolicyFeature = SimpleNamespace
        absent = {"lerobot": ModuleType("lerobot"), "lerobot.configs": ModuleType("lerobot.configs")}
        for name, module in {**absent, "lerobot.configs.types": types, "lerobot.processor": stand_in}.items():
            monkeypatch.setitem(sys.modules, name, module)
        before = set(sys.modules)
        yield importlib.import_module(STEPS)
        for name in set(sys.modules) - before:  # what was imported with the stand-ins holds on to them
            if name.startswith("spaceclip_plugin.bridges.lerobot"):
                del sys.modules[name]
    else:
        yield importlib.import_module(STEPS)


@pytest.fixture
def policy() -> Policy:
    return Policy()


def head_of(policy: Policy, **told: Any) -> DepthHead:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return telling(DepthHead.for_tower(policy).eval(), **told)


def seen() -> dict[str, torch.Tensor]:
    return {FRONT: torch.rand(2, 3, 24, 32, generator=torch.Generator().manual_seed(0))}


def observed(steps: Any, policy: Policy, head: DepthHead, **options: Any) -> dict[str, torch.Tensor]:
    step = steps.DepthProcessorStep(head, fresh=True, allow_untrained=True, policy=policy, **options)
    found: dict[str, torch.Tensor] = step.observation(seen())
    return found


def test_depth_is_in_metres_of_the_robots_camera_and_says_so(steps: Any) -> None:
    one, other = Policy(), Policy()
    assumed = observed(steps, one, head_of(one))
    known = observed(steps, other, head_of(other, familiar=False), intrinsics={"front": LONG})
    torch.testing.assert_close(known[f"{FRONT}_depth"], 2 * assumed[f"{FRONT}_depth"], rtol=1e-5, atol=0)
    assert known[f"{FRONT}_depth_lens_known"].tolist() == [True, True]
    assert assumed[f"{FRONT}_depth_lens_known"].tolist() == [False, False]
    assert assumed[f"{FRONT}_depth_familiarity"].tolist() == [1.0, 1.0]
    assert known[f"{FRONT}_depth_familiarity"].tolist() == [0.0, 0.0]


def test_a_head_that_tells_neither_adds_depth_its_uncertainty_and_its_age(
    steps: Any, policy: Policy, caplog: pytest.LogCaptureFixture
) -> None:
    head = head_of(policy, focal_length=None, familiar=None)
    with caplog.at_level(logging.WARNING):
        found = observed(steps, policy, head, intrinsics={"front": LONG})
    assert set(found) == {FRONT, f"{FRONT}_depth", f"{FRONT}_depth_uncertainty", f"{FRONT}_depth_age"}
    assert sum("does not tell the focal length" in record.getMessage() for record in caplog.records) == 1


def test_before_there_is_depth(steps: Any, policy: Policy) -> None:
    step = steps.DepthProcessorStep(head_of(policy), allow_untrained=True, policy=policy)
    found = step.observation(seen())
    assert found[f"{FRONT}_depth_lens_known"].tolist() == [False, False]
    assert found[f"{FRONT}_depth_familiarity"].tolist() == [-1.0, -1.0]


def test_the_guard_judges_those_metres(steps: Any) -> None:
    for options, said in (({"intrinsics": {"front": LONG}}, "pass"), ({}, "stop")):
        policy = Policy()
        head = head_of(policy)
        depth = steps.DepthProcessorStep(head, fresh=True, allow_untrained=True, policy=policy, **options)
        limits = GuardLimits(**LIMITS, need_lens=True)
        guard = steps.DepthGuardStep(head, actions="velocity", guard=DepthGuard(limits), policy=policy)
        depth.observation(seen())
        guard.action(torch.ones(2, 4))
        assert [decision.reaction for decision in guard.decisions] == [said, said]


def test_the_guard_stops_where_images_are_unlike_the_trainings(steps: Any, policy: Policy) -> None:
    head = head_of(policy, familiar=False)
    depth = steps.DepthProcessorStep(head, fresh=True, allow_untrained=True, policy=policy)
    guard = steps.DepthGuardStep(head, actions="velocity", guard=DepthGuard(GuardLimits(**LIMITS)), policy=policy)
    depth.observation(seen())
    assert not guard.action(torch.ones(2, 4)).any()
    assert "camera 'front': unlike the training images" in guard.decisions[0].reason


def test_the_config_keeps_them_and_older_ones_have_none(steps: Any, policy: Policy) -> None:
    head = head_of(policy)
    given = {"front": Intrinsics(64.0, 48.0, 16.0, 12.0, (24, 32))}
    depth = steps.DepthProcessorStep(head, allow_untrained=True, intrinsics=given)
    guard = steps.DepthGuardStep(
        head, actions="velocity", guard=DepthGuard(GuardLimits(**LIMITS)), intrinsics=given
    )  # fmt: skip
    for step in (depth, guard):
        saved = json.loads(json.dumps(step.get_config()))
        assert saved["intrinsics"] == {"front": LONG}
        assert type(step)(**saved).intrinsics == given
        del saved["intrinsics"]
        assert type(step)(**saved).intrinsics == {}
    assert "intrinsics" not in steps.DepthProcessorStep(head, allow_untrained=True).get_config()


def test_cameras_the_policy_has_not_and_steps_that_disagree(steps: Any, policy: Policy) -> None:
    head = head_of(policy)
    with pytest.raises(ConfigError, match=r"'frnt'.*front"):
        steps.DepthProcessorStep(head, allow_untrained=True, intrinsics={"frnt": LONG}).connect(policy)
    first = steps.DepthProcessorStep(head, allow_untrained=True, intrinsics={"front": LONG})
    first.connect(policy)
    with pytest.raises(ConfigError, match="different intrinsics of camera 'front'"):
        steps.DepthProcessorStep(head, allow_untrained=True, intrinsics={"front": [60.0, *LONG[1:]]}).connect(policy)


def test_intrinsics_of_images_of_another_shape(steps: Any, policy: Policy) -> None:
    with pytest.raises(HostError, match="camera 'front'"):
        observed(steps, policy, head_of(policy), intrinsics={"front": [64.0, 48.0, 16.0, 16.0, 32, 32]})


@pytest.mark.parametrize(
    "given",
    [
        LONG,
        {"front": LONG[:4]},
        {"front": [0.0, *LONG[1:]]},
        {"front": [float("nan"), *LONG[1:]]},
        {"front": [*LONG[:4], 24.5, 32]},
        {"front": [64.0, 48.0, 160.0, 120.0, 24, 32]},
        {"front": "64,48,16,12,24,32"},
        {"front": None},
    ],
)
def test_what_no_camera_has(given: Any) -> None:
    with pytest.raises(ConfigError, match=r"intrinsics|front"):
        checked_intrinsics(given)


def test_there_and_back() -> None:
    assert checked_intrinsics(None) == checked_intrinsics({}) == {}
    assert as_lists(checked_intrinsics({"front": LONG})) == {"front": LONG}
