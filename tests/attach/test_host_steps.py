"""Ages that move on with the host, of whatever is made of a depth map, and numbers that stay."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
from collections.abc import Callable

import numpy as np
import pytest
import torch
from clip_world import head, host, images, see
from torch import nn

from spaceclip_plugin import DepthHead, DepthMap, attach_depth_head
from spaceclip_plugin.depth.age import HostSteps
from spaceclip_plugin.depth.image_mapping import ImageMapping
from spaceclip_plugin.evaluation.prediction import predict
from spaceclip_plugin.guard import DepthGuard, GuardLimits, NewestDepth

__all__ = ["head", "host"]  # fixtures

GUARD = DepthGuard(GuardLimits(stop_below_m=0.0, slow_below_m=0.0, max_age=2, frozen_after=None))


def depth_map(age: int, *, batch: int = 2) -> DepthMap:
    depth = torch.full((batch, 4, 6), 2.0)
    return DepthMap(depth, torch.ones_like(depth, dtype=torch.bool), "top", 0, (4, 6), trained=True, age=age)


def test_a_step_that_is_going_on_and_the_one_that_just_ended_are_the_newest() -> None:
    steps = HostSteps()
    ages = [steps.age_of(0)]
    for ended in (1, 2, 3):
        assert steps.end() == ended
        ages.append(steps.age_of(0))
    assert ages == [0, 0, 1, 2]
    assert steps.age_of(3) == 0


DERIVED: dict[str, Callable[[DepthMap], DepthMap]] = {
    "itself": lambda depth: depth,
    "an image": lambda depth: depth[1],
    "moved": lambda depth: depth.to("cpu"),
    "named": lambda depth: depth.relabelled(camera="wrist"),
    "copied": copy.copy,
    "changed": lambda depth: dataclasses.replace(depth, trained=False),
    "mapped": lambda depth: depth.with_mapping(ImageMapping.stretched((8, 12), (4, 6))),
    "over the camera's image": lambda depth: depth.in_camera(ImageMapping.stretched((8, 12), (4, 6))),
}


@pytest.mark.parametrize("derive", DERIVED.values(), ids=DERIVED)
def test_what_is_made_of_a_map_grows_older_with_it(derive: Callable[[DepthMap], DepthMap]) -> None:
    steps = HostSteps()
    steps.end()
    derived = derive(depth_map(steps.age_of(0)))
    ages = [derived.age]
    for _ in range(3):
        steps.end()
        ages.append(derived.age)
    assert ages == [0, 1, 2, 3]
    assert f"age={3}" in repr(derived)


FIXED: dict[str, Callable[[DepthMap], DepthMap]] = {
    "pickled": lambda depth: pickle.loads(pickle.dumps(depth)),
    "deep copy": copy.deepcopy,
    "relabelled": lambda depth: depth.relabelled(age=1),
    "replaced": lambda depth: dataclasses.replace(depth, age=1),
    "summed": lambda depth: depth.relabelled(age=depth.age + 0),
}


@pytest.mark.parametrize("fix", FIXED.values(), ids=FIXED)
def test_an_age_that_is_a_number_stays(fix: Callable[[DepthMap], DepthMap]) -> None:
    steps = HostSteps()
    steps.end()
    depth = depth_map(steps.age_of(0))
    steps.end()
    fixed = fix(depth)
    steps.end()
    assert (fixed.age, depth.age) == (1, 2)
    assert torch.equal(fixed.depth_m, depth.depth_m)


def test_an_age_is_an_integer_like_any() -> None:
    steps = HostSteps()
    steps.end()
    depth = depth_map(steps.age_of(0))
    steps.end()
    age = depth.age
    steps.end()
    assert age == 1  # what was asked for is a number, and stays
    assert json.dumps({"age": age, "np": float(np.asarray(age))}) == '{"age": 1, "np": 1.0}'
    assert torch.tensor([age]).tolist() == [1]
    assert type(pickle.loads(pickle.dumps(age))) is int
    assert depth_map(3).age == 3
    assert DepthMap(depth.depth_m, depth.valid, None, 0, (4, 6), trained=True).age == 0
    with pytest.raises(dataclasses.FrozenInstanceError):
        depth.age = 0  # type: ignore[misc]


class TestOfAnAttachment:
    def test_a_frame_that_is_kept_grows_older(self, host: nn.Module, head: DepthHead) -> None:
        with attach_depth_head(host, head) as depth:
            see(host, 0)
            [kept] = depth.read()
            assert kept.age == 0
            see(host, 1)
            assert kept.age == 0  # until that step ends
            [newer] = depth.read()
            assert (kept.age, newer.age) == (1, 0)
            depth.step()
            depth.skip()
            assert (kept.age, newer.age) == (3, 2)
            latest = depth.latest
            depth.read()
            assert latest.age == 3
        assert kept.age == 4

    def test_a_guard_given_what_was_kept_sees_it_grow_old(self, host: nn.Module, head: DepthHead) -> None:
        guard = DepthGuard(dataclasses.replace(GUARD.limits, allow_untrained=True, min_valid=0.0))
        reactions = []
        with attach_depth_head(host, head) as depth:
            see(host, 0)
            kept = depth.read()
            for _ in range(4):
                reactions.append(guard.decide(kept).reaction)
                depth.step()
            assert guard.decide(depth.latest_of_each).reaction == "stop"
        assert reactions == ["pass", "pass", "pass", "stop"]

    def test_newest_depth_counts_every_step_once(self, host: nn.Module, head: DepthHead) -> None:
        newest, ages = NewestDepth(), []
        with attach_depth_head(host, head) as depth:
            for step in range(8):
                if step % 4 == 0:
                    see(host, step)
                newest.end_step(depth.read())
                ages.append(newest.images[0].age)
        assert ages == [0, 1, 2, 3, 0, 1, 2, 3]

    def test_predictions_of_photos_do_not_age(self, host: nn.Module, head: DepthHead) -> None:
        photos = [np.full((32, 32, 3), shade, np.uint8) for shade in (10, 200)]
        with attach_depth_head(host, head) as depth:
            found = [predict(depth, [photo], output_hw=(8, 8), flip=flip) for photo in photos for flip in (False, True)]
        assert [each.age for each in found] == [0, 0, 0, 0]

    def test_depth_that_could_not_be_handed_out_ends_its_step(self, host: nn.Module, head: DepthHead) -> None:
        wrong = ImageMapping.stretched((8, 8), (16, 16))  # the tower sees 32x32
        with attach_depth_head(host, head, mapping=wrong) as depth, torch.no_grad():
            host(images(0))
            with pytest.raises(ValueError, match="16"):
                depth.read()
            assert (depth.steps, depth.unread) == (1, 0)
