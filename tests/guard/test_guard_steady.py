"""A guard judges steady depth, and finds a frozen camera by what its frames alone say."""

from __future__ import annotations

import torch

from spaceclip_plugin import DepthMap
from spaceclip_plugin.depth.steadiness import Steadiness
from spaceclip_plugin.guard import DepthGuard, GuardLimits, NewestDepth

GUARD = DepthGuard(GuardLimits(stop_below_m=0.5, slow_below_m=0.5, frozen_after=2))


def seen(depth_m: float, alone_m: float, step: int) -> DepthMap:
    depth = torch.full((1, 4, 6), depth_m)
    told = Steadiness(torch.full((1, 4, 6), alone_m), step + 1, None, 1.0, 0.0, 0.1)
    of = {"camera": "front", "frame": step, "image_hw": (4, 6), "trained": True, "step": step}
    return DepthMap(depth, depth > 0, **of, steady=(told,))


def reactions(*metres: tuple[float, float]) -> list[str]:
    newest, found = NewestDepth(), []
    for step, (depth_m, alone_m) in enumerate(metres):
        newest.end_step([seen(depth_m, alone_m, step)])
        found.append(GUARD.decide(newest.images, repeats=newest.repeats).reaction)
    return found


def test_what_all_frames_say_is_judged() -> None:
    assert reactions((0.4, 1.0), (1.0, 0.4)) == ["stop", "pass"]


def test_the_very_same_frame_is_a_frozen_camera_whatever_earlier_ones_add() -> None:
    assert reactions((1.0, 1.0), (1.01, 1.0), (1.02, 1.0)) == ["pass", "pass", "stop"]


def test_depth_that_has_settled_is_no_frozen_camera() -> None:
    assert reactions((1.0, 1.0), (1.0, 1.1), (1.0, 0.9)) == ["pass", "pass", "pass"]
