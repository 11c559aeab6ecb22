"""Every row of the guard's table has the reaction it states, and every bound lies where it says."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
import torch

from spaceclip_plugin.depth import DepthMap
from spaceclip_plugin.errors import CaptureError, ConfigError
from spaceclip_plugin.guard import DepthGuard, GuardDecision, GuardLimits, NewestDepth

GUARD = DepthGuard(GuardLimits(stop_below_m=0.5, slow_below_m=1.5, near_share=0.0, min_factor=0.2))


def changed(**limits: Any) -> DepthGuard:
    """The guard of these tests with other limits."""
    return DepthGuard(dataclasses.replace(GUARD.limits, **limits))


def depth_of(depth_m: Any, **fields: Any) -> DepthMap:
    """Of one or more images of 4x5 pixels, from a number or a tensor (B, 4, 5)."""
    depth = depth_m if isinstance(depth_m, torch.Tensor) else torch.full((1, 4, 5), float(depth_m))
    given: dict[str, Any] = {"valid": torch.ones_like(depth, dtype=torch.bool), "camera": None, "frame": 0}
    given |= {"image_hw": (4, 5), "trained": True, **fields}
    return DepthMap(depth, **given)


def with_pixel(value_m: float, *, rest_m: float = 4.0, at: tuple[int, int] = (3, 4)) -> DepthMap:
    depth = torch.full((1, 4, 5), rest_m)
    depth[0, at[0], at[1]] = value_m
    return depth_of(depth)


def reaction(guard: DepthGuard, *depths: DepthMap, repeats: tuple[int, ...] = ()) -> str:
    return guard.decide(depths, repeats=repeats).reaction


class TestNothingToActOn:
    @pytest.mark.parametrize("depths", [None, [], ()])
    def test_no_depth_yet(self, depths: Any) -> None:
        assert GUARD.decide(depths) == GuardDecision("stop", 0.0, "there is no depth yet")

    def test_a_camera_is_missing(self) -> None:
        guard = changed(cameras=("top", "wrist"))
        top, wrist = depth_of(4.0, camera="top"), depth_of(4.0, camera="wrist")
        assert reaction(guard, top, wrist) == "pass"
        missing = guard.decide([top, depth_of(4.0)])
        assert missing == GuardDecision("stop", 0.0, "no depth of camera 'wrist' (1 image(s) without a name)")

    def test_other_cameras_do_not_count(self) -> None:
        guard = changed(cameras=("top",))
        assert reaction(guard, depth_of(4.0, camera="top"), depth_of(0.1, camera="wrist")) == "pass"
        assert reaction(GUARD, depth_of(4.0, camera="top"), depth_of(0.1, camera="wrist")) == "stop"

    def test_fewer_images_than_expected(self) -> None:
        guard = changed(min_images=2)
        assert reaction(guard, depth_of(4.0)) == "stop"
        assert reaction(guard, depth_of(4.0), depth_of(4.0)) == "pass"
        assert reaction(guard, depth_of(torch.full((2, 4, 5), 4.0))) == "pass"

    def test_it_could_not_be_read(self) -> None:
        decision = GUARD.unreadable(CaptureError("hidden state 3 holds NaN"))
        assert decision == GuardDecision("stop", 0.0, "the depth could not be read: hidden state 3 holds NaN")

    def test_an_untrained_head(self) -> None:
        random = depth_of(4.0, trained=False)
        assert GUARD.decide([random]).reason == "the head was not trained: its depth means nothing"
        assert reaction(GUARD, random) == "stop"
        assert reaction(changed(allow_untrained=True), random) == "pass"

    def test_stale(self) -> None:
        guard = changed(max_age=3)
        assert reaction(guard, depth_of(4.0, age=3)) == "pass"
        assert guard.decide([depth_of(4.0, age=4)]) == GuardDecision(
            "stop", 0.0, "the image: the depth is 4 host steps old, at most 3 are allowed"
        )
        assert reaction(changed(max_age=0), depth_of(4.0)) == "pass"

    def test_nothing_is_valid(self) -> None:
        blank = depth_of(4.0, valid=torch.zeros(1, 4, 5, dtype=torch.bool), camera="top")
        guard = changed(min_valid=0.0)
        decision = guard.decide([blank])
        assert (decision.reaction, decision.factor) == ("stop", 0.0)
        assert decision.reason == "camera 'top': 0 of 20 pixels have depth (a black or blank image?)"

    @pytest.mark.parametrize(("known", "expected"), [(9, "stop"), (10, "pass")])
    def test_too_little_is_valid(self, known: int, expected: str) -> None:
        valid = (torch.arange(20) < known).reshape(1, 4, 5)
        assert reaction(changed(min_valid=0.5), depth_of(4.0, valid=valid)) == expected

    def test_only_the_region_has_to_be_valid(self) -> None:
        valid = torch.ones(1, 4, 5, dtype=torch.bool)
        valid[:, :2] = False
        lower, upper = (0.5, 0.0, 1.0, 1.0), (0.0, 0.0, 0.5, 1.0)
        depth = depth_of(4.0, valid=valid)
        assert reaction(changed(min_valid=1.0, region=lower), depth) == "pass"
        assert reaction(changed(min_valid=0.0, region=upper), depth) == "stop"

    @pytest.mark.parametrize(("repeats", "expected"), [(0, "pass"), (2, "pass"), (3, "stop")])
    def test_a_frozen_camera(self, repeats: int, expected: str) -> None:
        guard = changed(frozen_after=3)
        decision = guard.decide([depth_of(4.0)], repeats=(repeats,))
        assert decision.reaction == expected
        assert ("4 times in a row" in decision.reason) == (expected == "stop")
        assert reaction(changed(frozen_after=None), depth_of(4.0), repeats=(repeats,)) == "pass"


class TestNear:
    @pytest.mark.parametrize(
        ("near_m", "expected", "factor"),
        [
            (0.4999, "stop", 0.0),
            (0.5, "slow", 0.2),
            (1.0, "slow", 0.6),
            (1.25, "slow", 0.8),
            (1.4999, "slow", 0.99992),
            (1.5, "pass", 1.0),
            (9.0, "pass", 1.0),
        ],
    )
    def test_distances(self, near_m: float, expected: str, factor: float) -> None:
        decision = GUARD.decide([with_pixel(near_m, rest_m=10.0)])
        assert decision.reaction == expected
        assert decision.factor == pytest.approx(factor, abs=1e-6)

    def test_the_reason_says_how_near(self) -> None:
        assert GUARD.decide([with_pixel(0.25)]).reason == "the image: 0.250 m, below 0.5 m"
        assert GUARD.decide([with_pixel(0.75)]).reason == "the image: 0.750 m, below 1.5 m"

    def test_a_pixel_that_is_not_valid_is_not_near(self) -> None:
        near = with_pixel(0.1)
        assert reaction(GUARD, near) == "stop"
        assert reaction(GUARD, dataclasses.replace(near, valid=near.depth_m > 1)) == "pass"

    @pytest.mark.parametrize(("share", "expected"), [(0.0, "stop"), (0.1, "stop"), (0.1501, "pass"), (1.0, "pass")])
    def test_so_many_pixels_must_be_near(self, share: float, expected: str) -> None:
        depth = torch.full((1, 4, 5), 4.0)
        depth[0, 0, :3] = 0.1
        assert reaction(changed(near_share=share), depth_of(depth)) == expected

    def test_the_share_is_of_valid_pixels(self) -> None:
        depth = torch.full((1, 4, 5), 4.0)
        depth[0, 0, :3] = 0.1
        valid = torch.ones(1, 4, 5, dtype=torch.bool)
        valid[0, 3] = False  # three of fifteen are a fifth
        guard = changed(near_share=0.19)
        assert reaction(guard, depth_of(depth)) == "pass"
        assert reaction(guard, depth_of(depth, valid=valid)) == "stop"

    @pytest.mark.parametrize(
        ("region", "expected"),
        [
            (None, "stop"),
            ((0.75, 0.8, 1.0, 1.0), "stop"),
            ((0.8, 0.85, 0.9, 0.9), "stop"),  # every pixel that it touches
            ((0.0, 0.0, 0.75, 1.0), "pass"),
            ((0.0, 0.0, 1.0, 0.8), "pass"),
        ],
    )
    def test_the_region(self, region: Any, expected: str) -> None:
        assert reaction(changed(region=region), with_pixel(0.1, at=(3, 4))) == expected

    @pytest.mark.parametrize(
        ("region", "at"),
        [
            ((0.3, 0.0, 1.0, 1.0), (1, 2)),
            ((0.0, 0.0, 0.6, 1.0), (2, 2)),
            ((0.0, 0.3, 1.0, 1.0), (2, 1)),
            ((0.0, 0.0, 1.0, 0.5), (2, 2)),
        ],
    )
    def test_a_pixel_that_the_region_cuts_is_in_it(self, region: Any, at: tuple[int, int]) -> None:
        assert reaction(changed(region=region), with_pixel(0.1, at=at)) == "stop"

    def test_never_slow(self) -> None:
        guard = changed(slow_below_m=0.5)
        assert reaction(guard, depth_of(0.49)) == "stop"
        assert guard.decide([depth_of(0.5)]).factor == 1.0


class TestUncertain:
    @pytest.mark.parametrize(
        ("when", "factor"), [("slow", 0.2), ("hold", 0.0), ("stop", 0.0)]
    )  # fmt: skip
    def test_above_the_bound(self, when: str, factor: float) -> None:
        guard = changed(max_uncertainty=0.25, when_uncertain=when)
        decision = guard.decide([depth_of(4.0, uncertainty_m=torch.full((1, 4, 5), 1.01))])
        assert (decision.reaction, decision.factor) == (when, factor)
        assert reaction(guard, depth_of(4.0, uncertainty_m=torch.full((1, 4, 5), 1.0))) == "pass"

    def test_only_the_near_pixels_are_asked(self) -> None:
        near = with_pixel(2.0)
        guard = changed(max_uncertainty=0.25)
        sure_near = torch.where(near.depth_m < 3, 0.1, 9.0)
        assert reaction(guard, dataclasses.replace(near, uncertainty_m=sure_near)) == "pass"
        assert reaction(guard, dataclasses.replace(near, uncertainty_m=9.1 - sure_near)) == "stop"

    @pytest.mark.parametrize(("second", "expected"), [(0.2, "pass"), (0.3, "stop")])
    def test_of_several_near_pixels_the_median(self, second: float, expected: str) -> None:
        depth, relative = torch.full((1, 4, 5), 8.0), torch.full((1, 4, 5), 9.0)
        depth[0, 0, :3] = 2.0
        relative[0, 0, :3] = torch.tensor([0.1, second, 0.9])
        guard = changed(max_uncertainty=0.25, near_share=0.15)
        assert reaction(guard, depth_of(depth, uncertainty_m=relative * depth)) == expected

    def test_near_and_uncertain_is_the_graver(self) -> None:
        guard = changed(max_uncertainty=0.25, when_uncertain="slow")
        unsure = torch.full((1, 4, 5), 9.0)
        assert reaction(guard, depth_of(0.4, uncertainty_m=unsure)) == "stop"
        assert guard.decide([depth_of(1.25, uncertainty_m=unsure)]).factor == 0.2

    def test_a_head_without_uncertainty(self) -> None:
        assert reaction(changed(max_uncertainty=1.0), depth_of(4.0)) == "stop"

    def test_a_depth_of_zero_is_uncertain(self) -> None:
        guard = DepthGuard(GuardLimits(stop_below_m=0.0, slow_below_m=0.0, max_uncertainty=1.0))
        assert reaction(guard, depth_of(0.0, uncertainty_m=torch.zeros(1, 4, 5))) == "stop"


class TestSeveralImages:
    def test_the_gravest_counts(self) -> None:
        far, near, nearer, touching = (depth_of(depth_m) for depth_m in (4.0, 1.25, 1.0, 0.1))
        assert reaction(GUARD, far, near) == "slow"
        assert GUARD.decide([near, far, nearer]).factor == pytest.approx(0.6)
        assert reaction(GUARD, near, touching, far) == "stop"

    def test_every_image_of_a_batch_counts(self) -> None:
        batch = torch.stack([torch.full((4, 5), 4.0), torch.full((4, 5), 0.1)])
        assert reaction(GUARD, depth_of(batch)) == "stop"

    def test_hold_is_graver_than_slow(self) -> None:
        guard = changed(max_uncertainty=0.25, when_uncertain="hold")
        sure, unsure = torch.zeros(1, 4, 5), torch.full((1, 4, 5), 9.0)
        slow, hold = depth_of(1.0, uncertainty_m=sure), depth_of(4.0, uncertainty_m=unsure)
        assert reaction(guard, slow, hold) == reaction(guard, hold, slow) == "hold"

    def test_each_has_its_own_count_of_repeats(self) -> None:
        guard = changed(frozen_after=3, cameras=("b",))
        a, b = depth_of(4.0, camera="a"), depth_of(4.0, camera="b")
        assert reaction(guard, a, b, repeats=(9, 0)) == "pass"
        assert reaction(guard, a, b, repeats=(0, 9)) == "stop"
        with pytest.raises(ConfigError, match="one of repeats for each depth, got 1 for 2"):
            guard.decide([a, b], repeats=(1,))


class TestSettings:
    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("stop_below_m", -0.1),
            ("stop_below_m", float("nan")),
            ("stop_below_m", 0.7),
            ("slow_below_m", float("inf")),
            ("slow_below_m", 0.2),
            ("near_share", 1.1),
            ("near_share", -0.1),
            ("min_valid", 1.1),
            ("min_factor", -0.1),
            ("max_age", -1),
            ("max_age", 2.0),
            ("min_images", 0),
            ("frozen_after", 0),
            ("max_uncertainty", -0.1),
            ("when_uncertain", "pass"),
            ("when_uncertain", "brake"),
            ("min_familiarity", 1.1),
            ("min_familiarity", float("nan")),
            ("when_unfamiliar", "pass"),
            ("need_lens", 1),
            ("region", (0.5, 0.0, 0.5, 1.0)),
            ("region", (0.0, 0.6, 1.0, 0.5)),
            ("region", (0.0, 0.0, 1.0, 1.1)),
            ("region", (0.0, 0.0, 1.0)),
            ("cameras", "top"),
            ("cameras", ("top", "top")),
            ("cameras", ("",)),
            ("allow_untrained", 1),
        ],
    )
    def test_out_of_bounds(self, field: str, value: Any) -> None:
        with pytest.raises(ConfigError, match=field):
            GuardLimits(**{field: value})

    def test_lists_as_json_gives_them(self) -> None:
        limits = GuardLimits.from_dict({"region": [0, 0, 1, 0.5], "cameras": ["top"], "least_valid": 0.25})
        assert limits == GuardLimits(region=(0.0, 0.0, 1.0, 0.5), cameras=("top",), min_valid=0.25)

    def test_there_and_back_as_json(self) -> None:
        limits = GuardLimits(min_images=2, min_factor=0.5, max_uncertainty=0.1, cameras=("a", "b"))
        written = limits.to_dict()
        assert GuardLimits.from_dict(json.loads(json.dumps(written))) == limits
        assert [*written] == [
            "stop_below_m",
            "slow_below_m",
            "near_share",
            "region",
            "max_age",
            "least_valid",
            "least_factor",
            "most_uncertain",
            "when_uncertain",
            "min_familiarity",
            "when_unfamiliar",
            "need_lens",
            "frozen_after",
            "cameras",
            "least_images",
            "allow_untrained",
        ]

    def test_those_saved_before_there_was_familiarity_have_its_defaults(self) -> None:
        written = GuardLimits().to_dict()
        for key in ("min_familiarity", "when_unfamiliar", "need_lens"):
            del written[key]
        assert GuardLimits.from_dict(written) == GuardLimits(
            min_familiarity=0.05, when_unfamiliar="stop", need_lens=False
        )

    @pytest.mark.parametrize("key", ["stop_below", "min_valid"])
    def test_unknown_keys(self, key: str) -> None:
        with pytest.raises(ConfigError, match=key):
            GuardLimits.from_dict({key: 0.5})


class TestNewest:
    def test_depth_grows_older_until_there_is_new(self) -> None:
        newest = NewestDepth()
        newest.end_step([])
        assert (newest.images, newest.repeats) == ((), ())
        newest.end_step([depth_of(1.0)])
        ages = []
        for _ in range(3):
            ages.append(newest.images[0].age)
            newest.end_step([])
        assert ages == [0, 1, 2]
        newest.end_step([depth_of(2.0, step=4)])
        assert [image.age for image in newest.images] == [0]
        assert float(newest.images[0].depth_m.max()) == 2.0

    def test_a_batch_becomes_images(self) -> None:
        newest = NewestDepth()
        newest.end_step([depth_of(torch.arange(40.0).reshape(2, 4, 5)), depth_of(7.0)])
        assert [len(image) for image in newest.images] == [1, 1, 1]
        assert [float(image.depth_m[0, 0, 0]) for image in newest.images] == [0.0, 20.0, 7.0]

    def test_the_last_of_several_steps(self) -> None:
        newest = NewestDepth()
        newest.end_step([depth_of(1.0, step=1), depth_of(2.0, step=2), depth_of(3.0, step=2)])
        assert [float(image.depth_m.max()) for image in newest.images] == [2.0, 3.0]

    def test_repeats_are_counted_image_by_image(self) -> None:
        newest = NewestDepth()
        counts = []
        for live_m in (1.0, 2.0, 3.0, 3.0):
            newest.end_step([depth_of(5.0, camera="frozen"), depth_of(live_m, camera="live")])
            newest.end_step([])  # a queued action in between is no image call
            counts.append(newest.repeats)
        assert counts == [(0, 0), (1, 0), (2, 0), (3, 1)]

    def test_other_valid_pixels_are_no_repeat(self) -> None:
        newest = NewestDepth()
        newest.end_step([depth_of(5.0)])
        newest.end_step([depth_of(5.0, valid=torch.eye(4, 5, dtype=torch.bool)[None])])
        assert newest.repeats == (0,)

    def test_other_cameras_are_no_repeat(self) -> None:
        newest = NewestDepth()
        newest.end_step([depth_of(5.0, camera="a")])
        newest.end_step([depth_of(5.0, camera="b")])
        assert newest.repeats == (0,)
        newest.end_step([depth_of(5.0, camera="b"), depth_of(5.0, camera="b")])
        assert newest.repeats == (0, 0)

    def test_forgotten(self) -> None:
        newest = NewestDepth()
        newest.end_step([depth_of(5.0)])
        newest.forget()
        assert GUARD.decide(newest.images, repeats=newest.repeats).reaction == "stop"
        newest.end_step([depth_of(5.0)])
        assert newest.repeats == (0,)
