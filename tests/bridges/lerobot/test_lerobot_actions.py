"""What a robot is sent along a chunk of actions, and which policies a guard's default age is refused for."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from spaceclip_plugin.bridges.lerobot.actions import ActionChunks, ActionsSent, as_chunk
from spaceclip_plugin.errors import ConfigError, HostError
from spaceclip_plugin.guard import GuardDecision, GuardLimits

PASS, HOLD, STOP = (GuardDecision(word, float(word == "pass"), "because") for word in ("pass", "hold", "stop"))
HALF = GuardDecision("slow", 0.5, "near")
CHUNK = torch.tensor([[[4.0, -8.0], [6.0, -4.0], [8.0, 0.0], [10.0, 4.0]]])


def sent_along(kind: str, decisions: list[GuardDecision], *, stop_action: Any = None) -> list[list[float]]:
    """What follows (2, -12), which was sent before."""
    sent = ActionsSent(kind, stop_action)
    sent.send(torch.tensor([[[9.0, 9.0], [2.0, -12.0]]]), [[PASS, PASS]])
    return sent.send(CHUNK, [decisions])[0].tolist()


class TestChunks:
    def test_pass_is_the_policys_own_bits(self) -> None:
        chunk = torch.randn(3, 5, 2)
        given = chunk.clone()
        sent = ActionsSent("velocity", None).send(chunk, [[PASS] * 5] * 3)
        assert torch.equal(sent, given)
        sent += 1
        assert torch.equal(chunk, given)

    @pytest.mark.parametrize(
        ("decisions", "stop_action", "expected"),
        [
            ([HALF] * 4, None, [[2.0, -4.0], [3.0, -2.0], [4.0, 0.0], [5.0, 2.0]]),
            ([HOLD] * 4, [1.0, 1.0], [[0.0, 0.0]] * 4),
            ([STOP] * 4, None, [[0.0, 0.0]] * 4),
            ([PASS, PASS, STOP, STOP], None, [[4.0, -8.0], [6.0, -4.0], [0.0, 0.0], [0.0, 0.0]]),
            ([PASS, STOP, STOP, STOP], [1.0, 2.0], [[4.0, -8.0], *[[1.0, 2.0]] * 3]),
        ],
    )
    def test_velocities(self, decisions: Any, stop_action: Any, expected: Any) -> None:
        assert sent_along("velocity", decisions, stop_action=stop_action) == expected

    @pytest.mark.parametrize(
        ("decisions", "stop_action", "expected"),
        [
            # Each row goes half of the way from the row that was sent before it.
            ([HALF] * 4, None, [[3.0, -10.0], [4.5, -7.0], [6.25, -3.5], [8.125, 0.25]]),
            ([HOLD] * 4, [1.0, 1.0], [[2.0, -12.0]] * 4),
            ([STOP] * 4, None, [[2.0, -12.0]] * 4),
            ([PASS, PASS, STOP, STOP], None, [[4.0, -8.0], *[[6.0, -4.0]] * 3]),
            ([HALF, HALF, STOP, STOP], None, [[3.0, -10.0], *[[4.5, -7.0]] * 3]),
            ([PASS, STOP, STOP, STOP], [1.0, 2.0], [[4.0, -8.0], *[[1.0, 2.0]] * 3]),
        ],
    )
    def test_positions(self, decisions: Any, stop_action: Any, expected: Any) -> None:
        assert sent_along("position", decisions, stop_action=stop_action) == expected

    def test_one_action_behind_a_chunk_holds_its_last_row(self) -> None:
        sent = ActionsSent("position", None)
        sent.send(CHUNK, [[PASS] * 4])
        assert sent.send(torch.zeros(1, 1, 2), [[HOLD]]).tolist() == [[[10.0, 4.0]]]
        assert sent.last is not None
        assert sent.last.tolist() == [[10.0, 4.0]]

    def test_each_robot_holds_its_own(self) -> None:
        sent = ActionsSent("position", None)
        chunk = torch.arange(12.0).reshape(2, 3, 2)
        sent.send(chunk, [[PASS] * 3] * 2)
        held = sent.send(chunk, [[HOLD] * 3, [PASS, HOLD, HOLD]])
        assert held.tolist() == [[[4.0, 5.0]] * 3, [[6.0, 7.0]] * 3]

    def test_a_chunk_that_was_cut_short(self) -> None:
        """Real-time chunking replaces a chunk under way: to hold its last row would be to drive there."""
        sent = ActionsSent("position", None)
        sent.send(CHUNK, [[PASS] * 4], overlapping=True)
        renewed = torch.tensor([[[6.2, -3.9], [8.1, 0.1]]])  # where the second row was executed
        assert sent.send(renewed, [[STOP, STOP]], overlapping=True).tolist() == [[[6.0, -4.0]] * 2]
        # What is held now is held on, however far the policy plans meanwhile.
        assert sent.send(CHUNK + 50, [[STOP] * 4], overlapping=True).tolist() == [[[6.0, -4.0]] * 4]
        assert sent.send(CHUNK, [[HALF, STOP, STOP, STOP]], overlapping=True).tolist() == [[[5.0, -6.0]] * 4]

    def test_no_place_to_hold(self) -> None:
        with pytest.raises(HostError, match="'hold' before any position was sent"):
            ActionsSent("position", None).send(CHUNK, [[HOLD] * 4])
        sent = ActionsSent("position", None)
        sent.send(CHUNK, [[PASS] * 4])
        sent.forget()
        with pytest.raises(HostError, match="before any position was sent"):
            sent.send(CHUNK, [[STOP] * 4])
        sent.send(CHUNK, [[PASS] * 4])
        with pytest.raises(HostError, match="before any position was sent"):
            sent.send(CHUNK.expand(2, -1, -1), [[STOP] * 4] * 2)  # other robots

    @pytest.mark.parametrize(
        ("shape", "expected"),
        [((6,), (1, 1, 6)), ((3, 6), (3, 1, 6)), ((1, 50, 6), (1, 50, 6)), ((2, 4, 6), (2, 4, 6))],
    )
    def test_shapes(self, shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
        assert tuple(as_chunk(torch.zeros(shape)).shape) == expected

    @pytest.mark.parametrize("shape", [(), (0,), (2, 0), (0, 6), (1, 0, 6), (1, 2, 3, 4)])
    def test_shapes_that_are_no_actions(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(HostError, match=r"got shape \("):
            as_chunk(torch.zeros(shape))


class Policy(nn.Module):
    def __init__(self, **config: Any) -> None:
        super().__init__()
        self.config = SimpleNamespace(**config)


ONE_BY_ONE = {"n_action_steps": 50, "chunk_size": 50}
REAL_TIME = {**ONE_BY_ONE, "rtc_config": SimpleNamespace(enabled=True)}


class TestDefaults:
    @pytest.mark.parametrize(
        ("config", "expected"),
        [
            ({}, (1, 1, False)),
            (ONE_BY_ONE, (50, 50, False)),
            ({"n_action_steps": 8, "chunk_size": 50}, (8, 50, False)),
            ({"n_action_steps": None}, (1, 1, False)),
            (REAL_TIME, (50, 50, True)),
            ({**ONE_BY_ONE, "rtc_config": SimpleNamespace(enabled=False)}, (50, 50, False)),
            ({**ONE_BY_ONE, "rtc_config": None}, (50, 50, False)),
        ],
    )
    def test_what_a_configuration_says(self, config: Any, expected: tuple[int, int, bool]) -> None:
        assert ActionChunks.of(Policy(**config)) == ActionChunks("Policy", *expected)

    def test_a_chunk_that_outlives_the_default_age_is_refused(self) -> None:
        with pytest.raises(ConfigError) as refused:
            ActionChunks.of(Policy(**ONE_BY_ONE)).check(GuardLimits(), fresh=False)
        for word in ("n_action_steps=50", "max_age", "fresh=True", "11 actions pass", "stop 39"):
            assert word in str(refused.value)

    @pytest.mark.parametrize("steps", [1, 10, 11])
    def test_chunks_that_the_default_age_covers(self, steps: int) -> None:
        ActionChunks.of(Policy(n_action_steps=steps, chunk_size=50)).check(GuardLimits(), fresh=False)

    def test_one_more_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="n_action_steps=12"):
            ActionChunks.of(Policy(n_action_steps=12)).check(GuardLimits(), fresh=False)

    def test_fresh_depth_is_never_old(self) -> None:
        ActionChunks.of(Policy(**ONE_BY_ONE)).check(GuardLimits(), fresh=True)

    @pytest.mark.parametrize("fresh", [False, True])
    def test_real_time_chunks_need_an_age(self, fresh: bool, caplog: pytest.LogCaptureFixture) -> None:
        """However fresh, depth is as old as its chunk."""
        chunks = ActionChunks.of(Policy(**{**REAL_TIME, "n_action_steps": 1}))
        with pytest.raises(ConfigError, match=r"chunk_size=50.*say max_age"):
            chunks.check(GuardLimits(), fresh=fresh)
        chunks.check(GuardLimits(max_age=49), fresh=fresh)
        assert not caplog.records

    def test_an_explicit_age_is_taken_and_what_it_means_is_told(self, caplog: pytest.LogCaptureFixture) -> None:
        ActionChunks.of(Policy(**ONE_BY_ONE)).check(GuardLimits(max_age=10), fresh=False)
        [record] = caplog.records
        assert record.levelno == logging.WARNING
        assert "max_age=10" in record.getMessage()
        assert "last 39 of them" in record.getMessage()


@pytest.mark.parametrize("values", [(), (0.0,), (0.0, 0.0, 0.0)])
def test_a_stop_of_another_length_is_refused_before_there_is_one(values: tuple[float, ...]) -> None:
    with pytest.raises(ConfigError, match=f"stop_action has {len(values)} values, the actions have 2"):
        ActionsSent("velocity", values).send(CHUNK, [[PASS] * 4])
