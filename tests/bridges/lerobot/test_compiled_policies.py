"""LeRobot policies with `compile_model=True`: the depth of the policy that is not compiled, whenever it is attached."""

from __future__ import annotations

from functools import partial
from typing import Any
from unittest import mock

import pytest
import torch

from spaceclip_plugin import attach_depth_head

pytest.importorskip("lerobot.policies", reason="needs lerobot, in an environment of its own: make test-lerobot")

from small_heads import actions, small_head
from tiny_policies import POLICIES
from tiny_policy import CHUNK, TinyPolicy

COMPILED = [tiny for tiny in POLICIES if tiny.name in ("pi0", "smolvla")]


def compiled(tiny: TinyPolicy) -> Any:
    """The policy as it compiles itself, but by a compiler that writes no C++."""
    plain = torch.compile
    with mock.patch.object(torch, "compile", lambda function, **_mode: partial(plain, backend="eager")(function)):
        return tiny.seeded(compile_model=True)


@pytest.mark.filterwarnings("ignore::UserWarning")  # inside the compiler
@pytest.mark.parametrize("ran_before", [False, True], ids=["attached first", "ran before"])
@pytest.mark.parametrize("tiny", COMPILED, ids=lambda tiny: tiny.name)
def test_depth_and_actions_are_those_of_the_plain_policy(tiny: TinyPolicy, ran_before: bool) -> None:
    plain, policy, batch = tiny.seeded(), compiled(tiny), tiny.batch(1)
    head = small_head(plain)
    with attach_depth_head(plain, head) as depth:
        expected_actions, expected = actions(plain, batch), depth.read()
    if ran_before:
        actions(policy, batch)
    with attach_depth_head(policy, head) as depth:
        for _ in range(2):
            taken = actions(policy, batch, CHUNK)
            torch.testing.assert_close(taken[:1], expected_actions)
            frames = depth.read()
            assert len(frames) == len(expected) == tiny.calls
            for frame, other in zip(frames, expected, strict=True):
                torch.testing.assert_close(frame.depth_m, other.depth_m, rtol=1e-4, atol=1e-5)
        assert depth.read() == []
    torch.testing.assert_close(actions(policy, batch), expected_actions)
