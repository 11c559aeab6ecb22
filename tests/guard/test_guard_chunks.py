"""A chunk of actions by one look: every row by the same depth, which is a host step older at each."""

from __future__ import annotations

import pytest
import torch

from spaceclip_plugin.depth.depth_map import DepthMap
from spaceclip_plugin.errors import ConfigError
from spaceclip_plugin.guard import MAX_AGE, DepthGuard, GuardLimits, NewestDepth

GUARD = DepthGuard(GuardLimits(stop_below_m=0.5, slow_below_m=1.5, near_share=0.0, max_age=3))


def depth_of(depth_m: float, *, age: int = 0, camera: str | None = None) -> DepthMap:
    depth = torch.full((1, 4, 5), depth_m)
    return DepthMap(depth, torch.ones(1, 4, 5, dtype=torch.bool), camera, 0, (4, 5), True, age=age)


def along(guard: DepthGuard, rows: int, *depths: DepthMap, repeats: tuple[int, ...] = ()) -> str:
    """The first letter of each row's reaction."""
    return "".join(decision.reaction[0] for decision in guard.decide_chunk(depths, rows, repeats=repeats))


class TestChunk:
    @pytest.mark.parametrize(("age", "expected"), [(0, "ppppss"), (2, "ppssss"), (3, "psssss"), (4, "ssssss")])
    def test_rows_grow_older(self, age: int, expected: str) -> None:
        assert along(GUARD, 6, depth_of(4.0, age=age)) == expected

    def test_the_reason_tells_the_age_at_that_row(self) -> None:
        decisions = GUARD.decide_chunk([depth_of(4.0)], 6)
        assert decisions[3].reason == "the image: 4.000 m"
        assert decisions[5].reason == "the image: the depth is 5 host steps old, at most 3 are allowed"

    def test_near_is_near_at_every_row(self) -> None:
        slow = GUARD.decide_chunk([depth_of(1.0)], 5)
        assert [decision.factor for decision in slow] == [pytest.approx(0.6)] * 4 + [0.0]
        stopped = GUARD.decide_chunk([depth_of(0.4)], 5)
        assert {decision.reason for decision in stopped} == {"the image: 0.400 m, below 0.5 m"}

    def test_the_oldest_camera_counts(self) -> None:
        a, b = depth_of(4.0, age=0, camera="a"), depth_of(4.0, age=2, camera="b")
        assert along(GUARD, 4, a, b) == "ppss"
        only_a = DepthGuard(GuardLimits(max_age=3, cameras=("a",), stop_below_m=0.5))
        assert along(only_a, 6, a, b) == "ppppss"

    def test_a_frozen_camera_is_counted_by_image_calls(self) -> None:
        guard = DepthGuard(GuardLimits(frozen_after=2, max_age=100))
        assert along(guard, 50, depth_of(4.0), repeats=(1,)) == "p" * 50
        assert along(guard, 50, depth_of(4.0), repeats=(2,)) == "s" * 50

    def test_no_depth(self) -> None:
        assert along(GUARD, 3) == "sss"
        assert GUARD.decide_chunk(None, 2)[1].reason == "there is no depth yet"

    def test_the_default_age(self) -> None:
        assert GuardLimits().max_age is None
        assert (MAX_AGE, GuardLimits().oldest_allowed, GuardLimits(max_age=0).oldest_allowed) == (10, 10, 0)
        assert along(DepthGuard(), 50, depth_of(4.0)) == "p" * 11 + "s" * 39

    @pytest.mark.parametrize("rows", [0, -1, 2.0])
    def test_no_row(self, rows: int) -> None:
        with pytest.raises(ConfigError, match="rows"):
            GUARD.decide_chunk([depth_of(4.0)], rows)


def test_depth_is_older_by_every_row_that_was_executed() -> None:
    newest = NewestDepth()
    newest.end_step([depth_of(4.0)])
    newest.end_step([], steps=50)
    assert [image.age for image in newest.images] == [50]
    newest.end_step([], steps=1)
    assert [image.age for image in newest.images] == [51]
    newest.end_step([depth_of(5.0)], steps=50)
    assert [image.age for image in newest.images] == [0]
