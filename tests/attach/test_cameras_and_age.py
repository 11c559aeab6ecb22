"""Which camera depth belongs to, and how old it is, through policies that queue actions."""

from __future__ import annotations

import threading
from collections import deque
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from clip_world import clip_host, head, host, images
from torch import Tensor, nn

from spaceclip_plugin import DepthHead, attach_depth_head
from spaceclip_plugin.attach.cameras import CallNames
from spaceclip_plugin.attach.declared import CameraOrder, declared_cameras
from spaceclip_plugin.errors import ConfigError
from spaceclip_plugin.towers.registry import find_towers

__all__ = ["head", "host"]  # fixtures

CHUNK = 4


class PI0Policy(nn.Module):
    """Runs its tower once per camera and chunk of actions, missing cameras last and all -1, as LeRobot's do."""

    def __init__(self, *cameras: str) -> None:
        super().__init__()
        self.eye = clip_host()
        self.config = SimpleNamespace(image_features={f"observation.images.{name}": None for name in cameras})
        self.queue: deque[float] = deque()

    def select_action(self, batch: dict[str, Tensor]) -> float:
        if not self.queue:
            names = list(self.config.image_features)
            present = [batch[name] for name in names if name in batch]
            missing = [torch.full_like(present[0], -1) for name in names if name not in batch]
            with torch.no_grad():
                seen = [self.eye(pixels).pooler_output.sum() for pixels in present + missing]
            self.queue.extend([float(sum(seen))] * CHUNK)
        return self.queue.popleft()


def batch(*cameras: str, seed: int = 0) -> dict[str, Tensor]:
    return {f"observation.images.{name}": images(seed + i) for i, name in enumerate(cameras)}


class TestAge:
    def test_depth_ages_while_queued_actions_are_served(self, head: DepthHead) -> None:
        policy = PI0Policy("top", "wrist")
        counts, ages, steps = [], [], []
        with attach_depth_head(policy, head) as depth:
            for step in range(2 * CHUNK):
                policy.select_action(batch("top", "wrist", seed=step))
                frames = depth.read()
                counts.append([(frame.camera, frame.age, frame.step) for frame in frames])
                ages.append(depth.latest.age)
                steps.append(depth.latest.step)
        fresh = [[("top", 0, step), ("wrist", 0, step)] for step in (0, CHUNK)]
        assert counts == [fresh[0], [], [], [], fresh[1], [], [], []]
        assert ages == [0, 1, 2, 3, 0, 1, 2, 3]
        assert steps == [0] * CHUNK + [CHUNK] * CHUNK

    def test_steps_without_a_read_count(self, host: nn.Module, head: DepthHead) -> None:
        with torch.no_grad(), attach_depth_head(host, head) as depth:
            host(images(0))
            depth.step()
            host(images(1))
            depth.step()
            host(images(2))
            assert [(frame.step, frame.age) for frame in depth.read()] == [(0, 2), (1, 1), (2, 0)]
            depth.step()
            assert depth.latest.age == 1
            assert depth.latest.depth_m is depth.latest.depth_m

    def test_a_failed_read_ends_no_step(self, host: nn.Module, head: DepthHead) -> None:
        with torch.no_grad(), attach_depth_head(host, head) as depth:
            host(images(0))
            with pytest.raises(ConfigError):
                depth.read((0, 0))
            assert [(frame.step, frame.age) for frame in depth.read()] == [(0, 0)]

    def test_latest_is_no_stand_in_and_never_goes_back(self, head: DepthHead) -> None:
        policy = PI0Policy("top", "wrist")
        with attach_depth_head(policy, head) as depth:
            policy.select_action(batch("wrist"))
            assert [frame.frame for frame in depth.read()] == [0, 1]
            assert depth.latest.frame == 0  # the second is the blank image that stands for the other camera
            assert depth.latest is not depth.latest

    def test_refresh_makes_depth_young_again(self, head: DepthHead) -> None:
        policy = PI0Policy("top")
        with attach_depth_head(policy, head) as depth:
            policy.select_action(batch("top"))
            depth.read()
            policy.select_action(batch("top"))
            assert depth.read() == []
            assert depth.latest.age == 1
            depth.refresh(images(5))
            [frame] = depth.read()
            assert (frame.age, frame.camera, depth.latest.age) == (0, "top", 0)


class TestViews:
    def test_a_missing_camera_has_no_depth_and_takes_the_names_along(self, head: DepthHead) -> None:
        policy = PI0Policy("top", "wrist")
        with attach_depth_head(policy, head) as depth:
            policy.select_action(batch("wrist"))  # the calls are wrist, then the stand-in for top
            wrist, stand_in = depth.read()
        assert (wrist.camera, stand_in.camera) == (None, None)
        assert bool(wrist.valid.any())
        assert not bool(stand_in.valid.any())
        assert bool((stand_in.depth_m >= 0).all())

    def test_declared_placeholders_do_not_cost_the_names(self, head: DepthHead) -> None:
        policy = PI0Policy("top", "empty_camera_0")
        with attach_depth_head(policy, head) as depth:
            policy.select_action(batch("top"))
            frames = depth.read()
        assert [frame.camera for frame in frames] == ["top", "empty_camera_0"]
        assert [bool(frame.valid.any()) for frame in frames] == [True, False]

    def test_one_blank_image_of_a_batch_is_not_valid(self, host: nn.Module, head: DepthHead) -> None:
        pixels = torch.cat([images(0), torch.full((1, 3, 32, 32), 0.25), images(1)])
        with torch.no_grad(), attach_depth_head(host, head) as depth:
            host(pixels)
            [frame] = depth.read()
        assert frame.valid.flatten(1).any(dim=1).tolist() == [True, False, True]

    def test_names_may_be_given(self, host: nn.Module, head: DepthHead) -> None:
        with torch.no_grad(), attach_depth_head(host, head, cameras=["left", "right"]) as depth:
            for pair in ((0, 1), (2, 3)):
                for seed in pair:
                    host(images(seed))
                assert [frame.camera for frame in depth.read()] == ["left", "right"]
            host(images(4))  # one call is not the two cameras
            assert [frame.camera for frame in depth.read()] == [None]

    def test_two_policies_in_one_host_keep_their_cameras(self, head: DepthHead) -> None:
        host = nn.ModuleDict({"a": PI0Policy("left", "right"), "b": PI0Policy("top", "wrist")})
        with attach_depth_head(host, head, tower=find_towers(host)[1].spec.path) as depth:
            assert depth.cameras == ("top", "wrist")

    def test_a_reader_in_another_thread_gives_no_names(self, head: DepthHead) -> None:
        """It may read between two cameras, and would then call every later one by the other's name."""
        policy, names = PI0Policy("top", "wrist"), []
        with attach_depth_head(policy, head) as depth:
            policy.select_action(batch("top", "wrist"))
            reader = threading.Thread(target=lambda: names.extend(frame.camera for frame in depth.read()))
            reader.start()
            reader.join()
            assert names == [None, None]
            assert depth.latest.frame == 1

    def test_a_buffer_that_was_filled_again_costs_the_names(self, host: nn.Module, head: DepthHead) -> None:
        buffer = images(0)
        with torch.no_grad(), attach_depth_head(host, head, cameras=("top", "wrist")) as depth:
            host(buffer)
            buffer.fill_(-1)
            host(buffer)
            assert [frame.camera for frame in depth.read()] == [None, None]

    @pytest.mark.parametrize("views", [[], [1, 2], ["top", "top"], [""], ["top", None]])
    def test_views_that_are_no_names(self, host: nn.Module, head: DepthHead, views: list[object]) -> None:
        with pytest.raises(ConfigError, match="list of different camera names"):
            attach_depth_head(host, head, cameras=views)

    def test_a_single_string_is_no_list_of_names(self, host: nn.Module, head: DepthHead) -> None:
        with pytest.raises(ConfigError, match="list of different camera names, got 'wrist'"):
            attach_depth_head(host, head, cameras="wrist")

    def test_names_that_a_policy_declares(self) -> None:
        assert names([PI0Policy("top", "wrist")]) == ("top", "wrist")
        policy = PI0Policy("side")
        policy.config.image_features = {"observation.image": None}
        assert names([policy.eye, policy, nn.Sequential(policy)]) == ("image",)
        assert declared_cameras([clip_host()]) is None

        class XVLAPolicy(nn.Module):  # all cameras in one call: a call is no camera
            config = SimpleNamespace(image_features={"observation.images.top": None})

        assert names([XVLAPolicy()]) == ()

    @pytest.mark.parametrize(
        ("steps", "blank", "expected"),
        [
            ([3, 3], [False, False], ["a", "b"]),
            ([3, 3, 4, 4], [False] * 4, ["a", "b", "a", "b"]),
            ([3, 3, 4], [False] * 3, ["a", "b", None]),
            ([3, 3, 3, 3], [False] * 4, [None] * 4),
            ([3, 3, 4, 4], [False, True, False, False], [None, None, "a", "b"]),
            ([3, 3, 4, 4], [False, None, False, False], [None, None, "a", "b"]),
            ([4, 3, 4], [False] * 3, ["a", None, "b"]),
            ([], [], []),
        ],
    )
    def test_names_are_certain_or_absent(self, steps: list[int], blank: list[bool], expected: list[str | None]) -> None:
        calls: list[Any] = [SimpleNamespace(depth=SimpleNamespace(camera=None, step=step)) for step in steps]
        for call, is_blank in zip(calls, blank, strict=True):
            call.blank = is_blank
        assert CallNames(CameraOrder(("a", "b"))).of(calls, {}) == expected


def names(holders: list[nn.Module]) -> tuple[str, ...]:
    declared = declared_cameras(holders)
    assert declared is not None
    return declared.order.names
