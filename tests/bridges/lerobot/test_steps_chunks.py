"""Chunks of actions as LeRobot's loops hand them over: queued, at once, and in real time."""

from __future__ import annotations

import logging
import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from spaceclip_plugin.errors import ConfigError
from spaceclip_plugin.guard import DepthGuard, GuardLimits

pytest.importorskip("lerobot.policies", reason="needs lerobot, in an environment of its own: make test-lerobot")

from packed_policies import XVLA
from row_policies import PI0, PI05, SMOLVLA
from step_world import LENIENT, LONG, TOP, act, add_both, guard, head_for, images_of, long_chunks, pipelines
from tiny_policies import POLICIES
from tiny_policy import ACTIONS, CAMERA_HW, CHUNK, STATE, TinyPolicy, observation

from spaceclip_plugin.bridges.lerobot import DepthGuardStep, DepthProcessorStep

each_policy = pytest.mark.parametrize(
    "tiny", [tiny for tiny in (PI0, PI05, SMOLVLA, XVLA) if tiny in POLICIES], ids=lambda tiny: tiny.name
)


def chunk_of(policy: Any, batch: dict[str, Any]) -> Tensor:
    """A whole chunk, from the same noise at every call."""
    with torch.random.fork_rng(devices=[]), torch.inference_mode():
        torch.manual_seed(5)
        return policy.predict_action_chunk(dict(batch))


def guarding(policy: Any, settings: DepthGuard = LENIENT, *, actions: str = "velocity", **options: Any) -> Any:
    step = DepthGuardStep(head_for(policy), actions=actions, guard=settings, **options)
    step.connect(policy)
    return step


class TestAtOnce:
    @each_policy
    def test_pass(self, tiny: TinyPolicy) -> None:
        policy = tiny.seeded()
        step = guarding(policy)
        chunk = chunk_of(policy, tiny.batch(2))
        assert chunk.shape == (2, CHUNK, ACTIONS)
        assert torch.equal(step.action(chunk), chunk)
        assert step.counts == {"pass": 2 * CHUNK}
        assert [decision.reaction for decision in step.decisions] == ["pass", "pass"]

    def test_rows_grow_too_old(self, caplog: pytest.LogCaptureFixture) -> None:
        policy = SMOLVLA.seeded()
        step = guarding(policy, guard(max_age=1))
        caplog.clear()
        for _ in range(2):
            chunk = chunk_of(policy, observation(1))
            sent = step.action(chunk)
            assert torch.equal(sent[:, :2], chunk[:, :2])
            assert not sent[:, 2:].any()
        assert step.counts == {"pass": 4, "stop": 4}
        assert sum("up to 3 host steps old" in record.getMessage() for record in caplog.records) == 1

    def test_each_robot_by_its_own_images(self) -> None:
        policy, batch = SMOLVLA.seeded(), observation(2)
        batch[TOP] = batch[TOP].clone()
        batch[TOP][1] = 0.0
        step = guarding(policy)
        chunk = chunk_of(policy, batch)
        sent = step.action(chunk)
        assert torch.equal(sent[0], chunk[0])
        assert not sent[1].any()
        assert step.counts == {"pass": CHUNK, "stop": CHUNK}

    def test_depth_that_did_not_come_is_older_by_the_whole_chunk(self) -> None:
        policy = SMOLVLA.seeded()
        step = guarding(policy, guard(max_age=CHUNK))
        chunk = chunk_of(policy, observation(1))
        step.action(chunk)
        sent = step.action(chunk)  # the tower did not run: its depth is of four steps ago
        assert torch.equal(sent[:, 0], chunk[:, 0])
        assert not sent[:, 1:].any()

    def test_rows_are_no_robots(self) -> None:
        """(T, A) is taken for T robots, whose images are not there."""
        policy = SMOLVLA.seeded()
        step = guarding(policy)
        assert not step.action(chunk_of(policy, observation(1))[0]).any()
        assert "a chunk of T of them is (B, T, A)" in step.decisions[0].reason

    def test_rows_are_no_robots_while_actions_are_queued(self) -> None:
        policy = SMOLVLA.seeded()
        step = guarding(policy)
        chunk = chunk_of(policy, observation(1))
        step.action(chunk[:, 0])
        assert not step.action(chunk[0, 1:]).any()
        assert "actions of 3 robot(s) behind depth of 1. Actions are (B, A)" in step.decisions[0].reason

    def test_repeats_are_counted_by_image_calls(self) -> None:
        policy = SMOLVLA.seeded()
        step = guarding(policy, guard(frozen_after=2))
        seen = []
        for _ in range(3):
            step.action(chunk_of(policy, observation(1)))
            seen.append(step.decisions[0].reaction)
        assert seen == ["pass", "pass", "stop"]

    def test_positions_hold_the_row_before(self) -> None:
        policy = SMOLVLA.seeded()
        step = guarding(policy, guard(max_age=1), actions="position")
        chunk = chunk_of(policy, observation(1))
        sent = step.action(chunk)
        assert torch.equal(sent[0], chunk[0, [0, 1, 1, 1]])
        step.guard = guard(stop_below_m=1000.0, slow_below_m=1000.0)
        assert torch.equal(step.action(chunk_of(policy, observation(1)))[0], chunk[0, [1, 1, 1, 1]])

    def test_ages_in_the_observation(self) -> None:
        policy, batch, ages = SMOLVLA.seeded(), observation(1), []
        depth, step = DepthProcessorStep(head_for(policy)), guarding(policy)
        depth.connect(policy)
        for _ in range(3):
            ages.append(int(depth.observation(images_of(batch))[f"{TOP}_depth_age"]))
            step.action(chunk_of(policy, batch))
        assert ages == [-1, CHUNK, CHUNK]


class TestOneByOne:
    def test_a_server_that_hands_over_row_by_row(self, caplog: pytest.LogCaptureFixture) -> None:
        """LeRobot's policy server predicts a chunk and postprocesses each of its rows by itself."""
        policy = long_chunks(SMOLVLA.seeded(), steps=1)  # of which that server takes no notice
        step = guarding(policy, guard(max_age=2))
        for _ in range(2):
            chunk = chunk_of(policy, observation(1))
            sent = torch.stack([step.action(chunk[:, row]) for row in range(CHUNK)], dim=1)
            assert torch.equal(sent[:, :3], chunk[:, :3])
            assert not sent[:, 3:].any()
        [record] = [record for record in caplog.records if record.levelno >= logging.WARNING]
        assert "max_age is 2" in record.getMessage()

    def test_one_robot_without_a_batch(self) -> None:
        policy = SMOLVLA.seeded()
        step = guarding(policy)
        action = act(policy, observation(1))[0]
        assert action.shape == (ACTIONS,)
        assert torch.equal(step.action(action), action)


class TestDefaults:
    """SmolVLA's chunk of 50 against an age of 10 that nobody chose: refused before any robot moves."""

    DEFAULT = DepthGuard(GuardLimits(stop_below_m=0.0, slow_below_m=0.0))

    def test_refused_when_the_pipeline_is_built(self) -> None:
        policy = long_chunks(SMOLVLA.seeded())
        preprocessor, postprocessor = pipelines(policy)
        before = [len(each.steps) for each in (preprocessor, postprocessor)]
        with pytest.raises(ConfigError, match=r"n_action_steps=50.*max_age.*fresh=True"):
            add_both(preprocessor, postprocessor, head_for(policy), guard=self.DEFAULT, policy=policy)
        assert [len(each.steps) for each in (preprocessor, postprocessor)] == before
        step = DepthGuardStep(head_for(policy), actions="velocity", guard=self.DEFAULT)
        with pytest.raises(ConfigError, match="n_action_steps=50"):
            step.connect(policy)

    def test_refused_whatever_integer_the_configuration_holds(self) -> None:
        policy = long_chunks(SMOLVLA.seeded(), steps=np.int64(LONG))
        step = DepthGuardStep(head_for(policy), actions="velocity", guard=self.DEFAULT)
        with pytest.raises(ConfigError, match="n_action_steps=50"):
            step.connect(policy)

    def test_refused_at_the_first_action_where_no_policy_was_told(self) -> None:
        policy = long_chunks(SMOLVLA.seeded())
        step = DepthGuardStep(head_for(policy), actions="velocity", guard=self.DEFAULT)
        for _ in range(2):
            with pytest.raises(ConfigError, match="n_action_steps=50"):
                step.action(torch.ones(1, ACTIONS))

    @pytest.mark.parametrize(
        ("options", "steps"),
        [({"fresh": True}, LONG), ({}, 11), ({"guard": DepthGuard(GuardLimits(max_age=49, stop_below_m=0.0))}, LONG)],
        ids=["fresh", "fewer steps", "an age of its own"],
    )
    def test_the_three_remedies(self, options: Any, steps: int, caplog: pytest.LogCaptureFixture) -> None:
        policy = long_chunks(SMOLVLA.seeded(), steps=steps)
        preprocessor, postprocessor = pipelines(policy)
        options = {"guard": self.DEFAULT, "policy": policy, **options}
        add_both(preprocessor, postprocessor, head_for(policy), **options)
        assert not [record for record in caplog.records if record.levelno >= logging.WARNING]

    @pytest.mark.parametrize("tiny", [XVLA, SMOLVLA], ids=lambda tiny: tiny.name)
    def test_the_default_that_is_refused_would_have_stopped_the_robot(self, tiny: TinyPolicy) -> None:
        policy = tiny.seeded()
        step = guarding(policy, DepthGuard(GuardLimits(stop_below_m=0.0, slow_below_m=0.0, max_age=10)))
        act(policy, tiny.batch(1))
        for _ in range(LONG):
            step.action(torch.ones(1, ACTIONS))
        assert step.counts == {"pass": 11, "stop": 39}

    def test_in_real_time(self) -> None:
        policy = long_chunks(SMOLVLA.seeded(), rtc_config=SimpleNamespace(enabled=True))
        head = head_for(policy)
        depth = DepthProcessorStep(head, fresh=True)
        depth.connect(policy)
        with pytest.raises(ConfigError, match=r"chunk_size=50.*say max_age"):
            DepthGuardStep(head, actions="velocity", guard=self.DEFAULT).connect(policy)


class TestInRealTime:
    """Through LeRobot's own engine: its thread shows a policy to both pipelines and hands whole chunks over."""

    @pytest.fixture
    def rtc(self) -> Any:
        return pytest.importorskip("lerobot.rollout.inference.rtc", reason="the installed lerobot has no rollout")

    def queued(self, rtc: Any, policy: Any, settings: DepthGuard, **options: Any) -> tuple[Tensor, Tensor, Any]:
        """The first chunk in the engine's queue, as it was and as it was guarded."""
        from lerobot.policies.rtc import RTCConfig

        policy.config.rtc_config = RTCConfig(execution_horizon=2)
        policy.init_rtc_processor()
        preprocessor, postprocessor = pipelines(policy)
        add_both(preprocessor, postprocessor, head_for(policy), guard=settings, **options)
        tokens = {name: value for name, value in observation(1).items() if "language" in name}

        def with_tokens(batch: dict[str, Any]) -> Any:
            return preprocessor({**batch, **tokens})

        with_tokens.steps = preprocessor.steps  # type: ignore[attr-defined]
        with_tokens.reset = preprocessor.reset  # type: ignore[attr-defined]
        joints = [f"j{i}" for i in range(STATE)]
        features = {"observation.state": {"dtype": "float32", "shape": (STATE,), "names": joints}}
        for key in policy.config.image_features:
            features[key] = {"dtype": "image", "shape": (*CAMERA_HW, 3), "names": []}
        engine = rtc.RTCInferenceEngine(
            policy=policy,
            preprocessor=with_tokens,
            postprocessor=postprocessor,
            robot_wrapper=SimpleNamespace(robot_type="rover", action_features={}),
            rtc_config=policy.config.rtc_config,
            hw_features=features,
            task="drive",
            fps=0.1,  # or a slow machine would have spent the whole chunk before it is there
            device="cpu",
            rtc_queue_threshold=0,
        )
        images = {name: (255 * torch.rand(*CAMERA_HW, 3)).byte().numpy() for name in ("top", "wrist")}
        engine.start()
        try:
            engine.notify_observation({**dict.fromkeys(joints, 0.0), **images})
            engine.resume()
            deadline = time.monotonic() + 30
            while engine.action_queue.empty() and not engine.failed and time.monotonic() < deadline:
                time.sleep(0.01)
            engine.pause()
            assert not engine.failed
            queue = engine.action_queue
            return queue.get_left_over(), queue.get_processed_left_over(), postprocessor.steps[-1]
        finally:
            engine.stop()

    @pytest.mark.parametrize("fresh", [False, True])
    def test_a_whole_chunk_is_guarded(self, rtc: Any, fresh: bool) -> None:
        original, guarded, step = self.queued(rtc, SMOLVLA.seeded(), LENIENT, fresh=fresh)
        assert len(guarded) > 0
        torch.testing.assert_close(guarded, 2 * original)  # the unnormalizer's scale, and nothing else
        assert set(step.counts) == {"pass"}
        assert step.counts["pass"] % CHUNK == 0

    def test_a_stop(self, rtc: Any) -> None:
        _, guarded, step = self.queued(rtc, SMOLVLA.seeded(), guard(stop_below_m=1000.0, slow_below_m=1000.0))
        assert len(guarded) > 0
        assert not guarded.any()
        assert set(step.counts) == {"stop"}
