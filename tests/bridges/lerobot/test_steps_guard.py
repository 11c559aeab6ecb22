"""The guard step between LeRobot's policies and their robots: every stated reaction, on live policies."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from fresh_heads import fresh_head
from torch import Tensor

from spaceclip_plugin.errors import ConfigError, HostError
from spaceclip_plugin.guard import DepthGuard, GuardDecision

pytest.importorskip("lerobot.policies", reason="needs lerobot, in an environment of its own: make test-lerobot")

from lerobot.configs.types import NormalizationMode
from packed_policies import XVLA
from row_policies import PI0, PI05, SMOLVLA
from step_world import LENIENT, TOP, WRIST, act, guard, head_for, images_of
from tiny_policies import POLICIES
from tiny_policy import CHUNK, observation

from spaceclip_plugin.bridges.lerobot import DepthGuardStep, DepthProcessorStep

FAR_M = 1000.0
each_policy = pytest.mark.parametrize(
    "tiny", [tiny for tiny in (PI0, PI05, SMOLVLA, XVLA) if tiny in POLICIES], ids=lambda tiny: tiny.name
)


def step_for(policy: Any, settings: DepthGuard = LENIENT, *, actions: str = "velocity", **options: Any) -> Any:
    step = DepthGuardStep(head_for(policy), actions=actions, guard=settings, **options)
    step.connect(policy)
    return step


def reactions(step: Any) -> list[str]:
    return [decision.reaction for decision in step.decisions]


def one_robot(policy: Any, settings: DepthGuard, batch: dict[str, Any]) -> GuardDecision:
    """What the guard says to the first action on a batch of one robot."""
    step = step_for(policy, settings)
    step.action(act(policy, batch))
    [decision] = step.decisions
    return decision


class TestReactions:
    @each_policy
    def test_pass(self, tiny: Any) -> None:
        policy = tiny.seeded()
        step = step_for(policy)
        action = act(policy, tiny.batch(2))
        assert torch.equal(step.action(action), action)
        assert reactions(step) == ["pass", "pass"]

    @each_policy
    def test_near(self, tiny: Any) -> None:
        policy = tiny.seeded()
        decision = one_robot(policy, guard(stop_below_m=FAR_M, slow_below_m=FAR_M), tiny.batch(1))
        assert decision.reaction == "stop"
        assert "m, below 1000.0 m" in decision.reason

    def test_no_depth_yet(self, policy: Any) -> None:
        step = step_for(policy)
        assert not step.action(torch.ones(1, 6)).any()
        assert step.decisions[0].reason == "there is no depth yet"

    @each_policy
    @pytest.mark.parametrize("missing", [TOP, WRIST])
    def test_a_missing_camera(self, tiny: Any, missing: str) -> None:
        policy, batch = tiny.seeded(), tiny.batch(1)
        del batch[missing]
        decision = one_robot(policy, LENIENT, batch)
        assert decision.reaction == "stop"
        assert "no depth of camera" in decision.reason or "a camera is missing" in decision.reason

    @each_policy
    @pytest.mark.parametrize("black", [TOP, WRIST])
    def test_a_black_image(self, tiny: Any, black: str) -> None:
        policy, batch = tiny.seeded(), tiny.batch(1)
        batch[black] = torch.zeros_like(batch[black])
        assert one_robot(policy, LENIENT, batch).reaction == "stop"

    def test_a_black_image_of_the_only_camera_that_is_asked(self, policy: Any) -> None:
        batch = observation(1)
        batch[TOP] = torch.zeros_like(batch[TOP])
        first = DepthProcessorStep(head_for(policy), fresh=True, cameras=["top"])
        first.connect(policy)
        first.observation(images_of(batch))
        step = step_for(policy, guard(cameras=("top",)))
        step.action(act(policy, batch))
        assert step.decisions[0].reason == "camera 'top': 0 of 3072 pixels have depth (a black or blank image?)"

    @each_policy
    def test_nan_pixels(self, tiny: Any) -> None:
        policy, batch = tiny.seeded(), tiny.batch(1)
        batch[WRIST] = batch[WRIST].clone()
        batch[WRIST][0, :, 3, 3] = torch.nan
        step = step_for(policy)
        for _ in range(CHUNK):
            assert not step.action(torch.ones_like(act(policy, batch))).any()
        assert "holds NaN" in step.decisions[0].reason or "no depth yet" in step.decisions[0].reason
        assert step.counts == {"stop": CHUNK}
        step.action(act(policy, tiny.batch(1)))
        assert reactions(step) == ["pass"]

    def test_the_reason_is_that_of_the_reading(self, policy: Any) -> None:
        batch = observation(1)
        batch[TOP] = torch.full_like(batch[TOP], torch.inf)
        decision = one_robot(policy, LENIENT, batch)
        assert decision.reaction == "stop"
        assert decision.reason.startswith("the depth could not be read: hidden state 0 of image call 0 holds NaN or")

    def test_stale(self, policy: Any) -> None:
        step, batch, seen = step_for(policy, guard(max_age=1)), observation(1), []
        for _ in range(CHUNK + 1):
            step.action(act(policy, batch))
            seen += reactions(step)
        assert seen == ["pass", "pass", "stop", "stop", "pass"]
        assert step.counts == {"pass": 3, "stop": 2}

    def test_a_guard_whose_depth_is_refreshed_is_not_stale(self, policy: Any) -> None:
        fresh = DepthProcessorStep(head_for(policy), fresh=True)
        fresh.connect(policy)
        step, batch = step_for(policy, guard(max_age=0)), observation(1)
        for _ in range(CHUNK + 1):
            fresh.observation(images_of(batch))
            step.action(act(policy, batch))
        assert step.counts == {"pass": CHUNK + 1}

    def test_both_steps_count_one_step(self, policy: Any) -> None:
        depth = DepthProcessorStep(head_for(policy))
        depth.connect(policy)
        step, batch, ages, seen = step_for(policy, guard(max_age=2)), observation(1), [], []
        for _ in range(CHUNK + 2):
            ages.append(int(depth.observation(images_of(batch))[f"{TOP}_depth_age"]))
            step.action(act(policy, batch))
            seen += reactions(step)
        assert ages == [-1, 1, 2, 3, 4, 1]
        assert seen == ["pass", "pass", "pass", "stop", "pass", "pass"]

    def test_uncertain(self) -> None:
        policy = SMOLVLA.seeded()
        head = fresh_head(policy, trained_on="noise", **MIXER).eval()
        for bound, expected in ((0.0, "hold"), (1000.0, "pass")):
            policy.reset()
            step = DepthGuardStep(head, actions="velocity", guard=guard(max_uncertainty=bound, when_uncertain="hold"))
            step.connect(policy)
            step.action(act(policy, observation(1)))
            assert reactions(step) == [expected]
            del step

    def test_frozen(self, policy: Any) -> None:
        fresh = DepthProcessorStep(head_for(policy), fresh=True)
        fresh.connect(policy)
        step, batch, seen = step_for(policy, guard(frozen_after=2)), observation(1), []
        for number in range(6):
            if number == 4:  # one of the two cameras alone goes on
                batch = {**batch, TOP: 1 - batch[TOP]}
            fresh.observation(images_of(batch))
            step.action(act(policy, batch))
            seen += reactions(step)
        assert seen == ["pass", "pass", "stop", "stop", "stop", "stop"]
        fresh.observation(images_of({**batch, WRIST: 1 - batch[WRIST], TOP: 1 - batch[TOP]}))
        step.action(act(policy, batch))
        assert reactions(step) == ["pass"]

    @pytest.mark.parametrize("fresh", [False, True])
    def test_each_robot_by_its_own_images(self, policy: Any, fresh: bool) -> None:
        batch = observation(3)
        for camera in (TOP, WRIST):
            batch[camera] = batch[camera].clone()
        batch[TOP][1] = 0.0
        depth = DepthProcessorStep(head_for(policy), fresh=fresh)
        depth.connect(policy)
        depth.observation(images_of(batch))
        step = step_for(policy)
        action = act(policy, batch)
        sent = step.action(action)
        assert reactions(step) == ["pass", "stop", "pass"]
        assert torch.equal(sent[[0, 2]], action[[0, 2]])
        assert not sent[1].any()
        assert step.counts == {"pass": 2, "stop": 1}

    def test_cameras_in_one_call_are_shared_out(self) -> None:
        policy, batch = XVLA.seeded(), XVLA.batch(2)
        batch[TOP] = batch[TOP].clone()
        batch[TOP][1] = 0.0
        step = step_for(policy)
        step.action(act(policy, batch))
        assert reactions(step) == ["pass", "stop"]

    @pytest.mark.parametrize("mode", ["IDENTITY", "MEAN_STD"], ids=["prepared by the policy", "prepared here"])
    def test_the_image_of_now_cannot_be_read(self, mode: str) -> None:
        policy = SMOLVLA.seeded()
        policy.config.normalization_mapping["VISUAL"] = NormalizationMode(mode)
        fresh = DepthProcessorStep(head_for(policy), fresh=True)
        fresh.connect(policy)
        step, batch, seen = step_for(policy), observation(1), []
        for broken in (False, True, False):
            image = torch.full_like(batch[TOP], torch.nan) if broken else batch[TOP]
            fresh.observation(images_of({**batch, TOP: image}))
            step.action(act(policy, batch))  # the second and third are queued
            seen += reactions(step)
        assert seen == ["pass", "stop", "pass"]

    def test_nothing_is_decoded_twice(self, policy: Any) -> None:
        head, calls = head_for(policy), []
        head.register_forward_hook(lambda *call: calls.append(call))
        depth, step = DepthProcessorStep(head, fresh=True), DepthGuardStep(head, actions="velocity", guard=LENIENT)
        for each in (depth, step):
            each.connect(policy)
        batch = observation(1)
        for _ in range(CHUNK + 1):
            depth.observation(images_of(batch))
            step.action(act(policy, batch))
        assert len(calls) == 2 * (CHUNK + 1)  # two cameras, refreshed at every step; what the policy ran was not

    def test_another_number_of_robots(self, policy: Any) -> None:
        step = step_for(policy)
        step.action(act(policy, observation(3))[:2])
        assert reactions(step) == ["stop", "stop"]
        assert "whose image is whose" in step.decisions[0].reason
        policy.reset()
        step.action(act(policy, observation(2)))
        assert reactions(step) == ["pass", "pass"]


MIXER = {"taps": (1, 3), "channels": (8, 6), "convolutions": (1, 1), "attention": 0}


class TestActions:
    """What is sent, with reactions as given."""

    ACTION = torch.tensor([[4.0, -8.0]])
    NEXT = torch.tensor([[8.0, 8.0]])

    def sent(self, policy: Any, decisions: list[GuardDecision], wanted: list[Tensor], **options: Any) -> list[Any]:
        step = DepthGuardStep(head_for(policy), **options)
        sent = []
        for decision, action in zip(decisions, wanted, strict=True):
            step._along = lambda robots, rows, decision=decision: [(decision,) * rows] * robots
            sent.append(step.action(action).tolist())
        return sent

    @pytest.mark.parametrize(
        ("actions", "reaction", "stop_action", "expected"),
        [
            ("velocity", "pass", None, [8.0, 8.0]),
            ("velocity", "slow", None, [2.0, 2.0]),
            ("velocity", "hold", None, [0.0, 0.0]),
            ("velocity", "stop", None, [0.0, 0.0]),
            ("velocity", "hold", [1.0, 2.0], [0.0, 0.0]),
            ("velocity", "stop", [1.0, 2.0], [1.0, 2.0]),
            ("velocity", "slow", [1.0, 2.0], [2.0, 2.0]),
            ("position", "pass", None, [8.0, 8.0]),
            ("position", "slow", None, [5.0, -4.0]),
            ("position", "hold", None, [4.0, -8.0]),
            ("position", "stop", None, [4.0, -8.0]),
            ("position", "hold", [1.0, 2.0], [4.0, -8.0]),
            ("position", "stop", [1.0, 2.0], [1.0, 2.0]),
        ],
    )
    def test_the_table(self, policy: Any, actions: str, reaction: str, stop_action: Any, expected: list[float]) -> None:
        decisions = [GuardDecision("pass", 1.0, ""), GuardDecision(reaction, 0.25 * (reaction == "slow"), "")]
        given = self.sent(policy, decisions, [self.ACTION, self.NEXT], actions=actions, stop_action=stop_action)
        assert given == [self.ACTION.tolist(), [expected]]

    def test_what_was_sent_is_held_not_what_was_wanted(self, policy: Any) -> None:
        slow, hold = GuardDecision("slow", 0.5, ""), GuardDecision("hold", 0.0, "")
        wanted = [self.ACTION, self.NEXT, self.NEXT * 9, self.NEXT * 9]
        sent = self.sent(policy, [GuardDecision("pass", 1.0, ""), slow, hold, hold], wanted, actions="position")
        assert sent[1:] == [[[6.0, 0.0]]] * 3

    @pytest.mark.parametrize("reaction", ["slow", "hold", "stop"])
    def test_no_place_to_hold(self, policy: Any, reaction: str) -> None:
        decision = GuardDecision(reaction, 0.0, "too near")
        with pytest.raises(HostError, match=f"says '{reaction}' before any position was sent: too near"):
            self.sent(policy, [decision], [self.ACTION], actions="position")

    def test_a_stop_before_anything_was_sent(self, policy: Any) -> None:
        decision = GuardDecision("stop", 0.0, "too near")
        sent = self.sent(policy, [decision], [self.ACTION], actions="position", stop_action=[1.0, 2.0])
        assert sent == [[[1.0, 2.0]]]
        with pytest.raises(ConfigError, match="stop_action has 3 values, the actions have 2"):
            self.sent(policy, [decision], [self.ACTION], actions="position", stop_action=[1.0, 2.0, 3.0])

    def test_an_episode_begins(self, policy: Any) -> None:
        step = step_for(policy, guard(max_age=0), actions="position")
        step.action(act(policy, observation(1)))
        step.action(act(policy, observation(1)))
        assert reactions(step) == ["stop"]
        step.reset()
        with pytest.raises(HostError, match="before any position was sent: there is no depth yet"):
            step.action(torch.ones(1, 6))

    def test_the_given_action_is_not_changed(self, policy: Any) -> None:
        step = step_for(policy)
        action = act(policy, observation(1))
        before = action.clone()
        sent = step.action(action)
        sent += 1
        assert torch.equal(action, before)
        assert torch.equal(step._actions.last, before)

    def test_one_action_without_a_batch(self, policy: Any) -> None:
        step = step_for(policy, guard(stop_below_m=FAR_M, slow_below_m=FAR_M))
        assert step.action(act(policy, observation(1))[0]).tolist() == [0.0] * 6
        for shape in ((1, 1, 2, 6), (), (0, 6), (1, 0, 6)):
            with pytest.raises(HostError, match=r"got shape \("):
                step.action(torch.zeros(shape))


def test_changes_are_logged_once(policy: Any, caplog: pytest.LogCaptureFixture) -> None:
    step = step_for(policy, guard(max_age=1))
    with caplog.at_level(logging.INFO, logger="spaceclip_plugin.bridges.lerobot.steps"):
        for _ in range(CHUNK):
            step.action(act(policy, observation(1)))
    told = [record.getMessage() for record in caplog.records if "depth guard" in record.getMessage()]
    assert [message.split("(")[0] for message in told] == [
        "depth guard, robot 0: pass ",
        "depth guard, robot 0: stop ",
    ]
