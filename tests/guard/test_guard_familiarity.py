"""Images unlike the training's and metres of no known camera stop the robot, where the guard's limits say so."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from spaceclip_plugin.depth import DepthMap, Intrinsics
from spaceclip_plugin.guard import DepthGuard, GuardDecision, GuardLimits

GUARD = DepthGuard(GuardLimits(stop_below_m=0.5, slow_below_m=1.5, near_share=0.0, min_factor=0.2))


def guard_with(**limits: Any) -> DepthGuard:
    return DepthGuard(dataclasses.replace(GUARD.limits, **limits))


def depth_of(depth_m: Any, **fields: Any) -> DepthMap:
    """Of one or more images of 4x5 pixels, from a number or a tensor (B, 4, 5)."""
    depth = depth_m if isinstance(depth_m, torch.Tensor) else torch.full((1, 4, 5), float(depth_m))
    given: dict[str, Any] = {"camera": None, "frame": 0, "image_hw": (4, 5), "trained": True, **fields}
    return DepthMap(depth, depth > 0, **given)


def reaction(guard: DepthGuard, depth: DepthMap) -> str:
    return guard.decide([depth]).reaction


@pytest.mark.parametrize(("when", "factor"), [("slow", 0.2), ("hold", 0.0), ("stop", 0.0)])
def test_below_the_bound(when: str, factor: float) -> None:
    guard = guard_with(when_unfamiliar=when)
    strange = depth_of(4.0, camera="front", familiarity=torch.tensor([0.01]))
    reason = "camera 'front': unlike the training images (familiarity 0.01, below 0.05)"
    assert guard.decide([strange]) == GuardDecision(when, factor, reason)


def test_at_the_bound_it_is_familiar_and_the_reason_is_the_near_distance() -> None:
    at, below = (depth_of(4.0, familiarity=torch.tensor([share])) for share in (0.05, 0.049))
    assert GUARD.decide([at]) == GuardDecision("pass", 1.0, "the image: 4.000 m")
    assert reaction(GUARD, below) == "stop"


def test_no_number_is_not_familiar() -> None:
    assert reaction(GUARD, depth_of(4.0, familiarity=torch.tensor([torch.nan]))) == "stop"


def test_where_nobody_asks_or_the_head_does_not_tell() -> None:
    strange = depth_of(4.0, familiarity=torch.zeros(1))
    assert reaction(guard_with(min_familiarity=None), strange) == "pass"
    assert reaction(guard_with(min_familiarity=1.0), depth_of(4.0)) == "pass"


def test_each_image_of_a_batch_is_asked() -> None:
    batch = depth_of(torch.full((2, 4, 5), 4.0), familiarity=torch.tensor([0.5, 0.0]))
    assert reaction(GUARD, batch) == "stop"


def test_the_graver_of_strange_near_and_uncertain() -> None:
    guard = guard_with(when_unfamiliar="slow", max_uncertainty=0.25, when_uncertain="hold")
    seen = {"familiarity": torch.zeros(1), "uncertainty_m": torch.zeros(1, 4, 5)}
    assert guard.decide([depth_of(1.25, **seen)]).factor == 0.2
    assert reaction(guard, depth_of(0.4, **seen)) == "stop"
    assert reaction(guard, depth_of(4.0, **(seen | {"uncertainty_m": torch.full((1, 4, 5), 9.0)}))) == "hold"


def test_metres_of_an_assumed_or_unknown_camera() -> None:
    camera = Intrinsics(5.0, 4.0, 2.5, 2.0, (4, 5))
    guard, assumed = guard_with(need_lens=True), depth_of(4.0, focal_length=(1.0, 1.0))
    assert reaction(guard, assumed) == reaction(guard, depth_of(4.0)) == "stop"
    assert "'assumed'" in guard.decide([assumed]).reason
    assert reaction(guard, assumed.with_intrinsics(camera)) == "pass"
    assert reaction(guard, depth_of(4.0).with_intrinsics(camera)) == "stop"  # the head does not tell its own
    assert reaction(GUARD, assumed) == "pass"


def test_the_near_distance_is_in_metres_of_the_robots_camera() -> None:
    twice_as_wide = Intrinsics(2.5, 2.0, 2.5, 2.0, (4, 5))
    assumed = depth_of(0.9, focal_length=(1.0, 1.0))
    assert reaction(GUARD, assumed) == "slow"
    assert reaction(GUARD, assumed.with_intrinsics(twice_as_wide)) == "stop"
