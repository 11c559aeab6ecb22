"""Cameras that are missing, dark or placeholders: a name where it is certain or was told, and never a wrong one."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from clip_world import clip_host, head, host, images
from torch import Tensor, nn

from spaceclip_plugin import DepthHead, DepthReader, attach_depth_head
from spaceclip_plugin.attach.cameras import names_of_step
from spaceclip_plugin.attach.declared import CameraOrder, declared_cameras
from spaceclip_plugin.errors import ConfigError

__all__ = ["head", "host"]  # fixtures

EMPTY = "empty_camera_0"


class _Policy(nn.Module):
    """Runs its tower as LeRobot's do: on cameras that are there, in order, then on images of -1 for missing ones."""

    stand_ins: int | None = None  # for so many of them at most

    def __init__(self, *cameras: str) -> None:
        super().__init__()
        self.eye = clip_host()
        features = {f"observation.images.{name}": None for name in cameras}
        empty = sum(name.startswith("empty_camera") for name in cameras)
        self.config = SimpleNamespace(image_features=features, empty_cameras=empty)

    def select_action(self, batch: dict[str, Tensor]) -> None:
        names = list(self.config.image_features)
        missing = sum(name not in batch for name in names)
        with torch.no_grad():
            for name in names:
                if name in batch:
                    self.eye(batch[name])
            for _ in range(missing if self.stand_ins is None else min(missing, self.stand_ins)):
                self.eye(torch.full_like(images(0), -1))


class PI0Policy(_Policy):
    pass


class SmolVLAPolicy(_Policy):
    @property
    def stand_ins(self) -> int:  # type: ignore[override]
        return self.config.empty_cameras


def observation(*cameras: str, dark: Sequence[str] = ()) -> dict[str, Any]:
    batch: dict[str, Any] = {
        f"observation.images.{name}": torch.full_like(images(0), -1) if name in dark else images(seed)
        for seed, name in enumerate(cameras)
    }
    return {**batch, "observation.state": torch.zeros(1, 6), "task": ["lift"]}


@pytest.mark.parametrize("kind", [PI0Policy, SmolVLAPolicy])
@pytest.mark.parametrize("placeholders", [0, 1, 2])
@pytest.mark.parametrize("told", [False, True])
def test_no_name_is_wrong_whatever_is_missing_or_dark(
    head: DepthHead, kind: type[_Policy], placeholders: int, told: bool
) -> None:
    """Every way in which some of three cameras are there and some of those are dark; told, all of them are named."""
    cameras = ("a", "b", "c")
    policy = kind(*cameras, *(f"empty_camera_{i}" for i in range(placeholders)))
    named = 0
    with attach_depth_head(policy, head) as depth:
        for there in itertools.chain.from_iterable(itertools.combinations(cameras, count) for count in (1, 2, 3)):
            for dark in ((), there[:1], there[-1:]):
                batch = observation(*there, dark=dark)
                if told:
                    depth.given(batch)
                policy.select_action(batch)
                maps = depth.read((1, 1))
                names = [found.camera for found in maps[: len(there)]]
                assert names in ([*there], [None] * len(there))
                assert all(found.camera not in there for found in maps[len(there) :])
                assert names == [*there] or not told
                named += names == [*there]
                if there == cameras and (kind is SmolVLAPolicy or dark != there[-1:]):
                    assert names == [*there]
    assert named == 21 if told else named < 4


def test_the_camera_that_is_there_is_named_beside_a_placeholder(head: DepthHead) -> None:
    policy = PI0Policy("top", EMPTY)
    with attach_depth_head(policy, head) as depth:
        policy.select_action(observation("top", dark=["top"]))
        assert [(found.camera, bool(found.valid.any())) for found in depth.read()] == [("top", False), (EMPTY, False)]


class TestWhatIsTold:
    def test_the_camera_that_is_there_keeps_its_name(self, head: DepthHead) -> None:
        policy = SmolVLAPolicy("front", "wrist", EMPTY)
        with attach_depth_head(policy, head) as depth:
            for camera in ("wrist", "front"):
                depth.given(observation(camera))
                policy.select_action(observation(camera))
                assert [found.camera for found in depth.read()] == [camera, None]
                assert depth.latest_of(camera).age == 0
        assert depth.latest_of("wrist").age == 1

    def test_it_holds_for_its_step_alone(self, head: DepthHead) -> None:
        policy = PI0Policy("front", "wrist")
        with attach_depth_head(policy, head) as depth:
            depth.given(["wrist"])
            depth.step()
            policy.select_action(observation("wrist"))
            assert [found.camera for found in depth.read()] == [None, None]

    def test_in_the_background_it_goes_with_the_step(self, head: DepthHead) -> None:
        policy = PI0Policy("front", "wrist")
        with attach_depth_head(policy, head) as depth, DepthReader(depth, background=True) as reader:
            depth.given(["wrist"])
            policy.select_action(observation("wrist"))
            reader.step()
            depth.given(["front"])
            reader.wait()
            assert [(found.camera, found.valid.any().item()) for found in reader.step()] == [
                ("wrist", True),
                ("front", False),  # the image that stands for it
            ]
            assert [found.camera for found in reader.latest_of_each] == ["wrist"]

    def test_it_is_no_reason_to_name_other_calls(self, head: DepthHead) -> None:
        policy = PI0Policy("front", "wrist")
        with attach_depth_head(policy, head) as depth:
            depth.given(["wrist"])
            policy.select_action(observation("front", "wrist"))  # not what was told
            assert [found.camera for found in depth.read()] == [None, None]
            depth.given(["wrist"])
            policy.select_action(observation("wrist"))
            policy.select_action(observation("wrist"))  # two chunks
            assert [found.camera for found in depth.read()] == [None] * 4

    @pytest.mark.parametrize(
        ("cameras", "named"),
        [(["wrst"], "did you mean 'wrist'"), (["wrist", "side"], "side"), ({"task": 1}, "task"), ([], "front, wrist")],
    )
    def test_names_of_no_camera(self, head: DepthHead, cameras: Any, named: str) -> None:
        with attach_depth_head(PI0Policy("front", "wrist"), head) as depth, pytest.raises(ConfigError, match=named):
            depth.given(cameras)

    def test_without_views_there_is_nothing_to_tell(self, host: nn.Module, head: DepthHead) -> None:
        with attach_depth_head(host, head) as depth, pytest.raises(ConfigError, match="attach with cameras"):
            depth.given(["front"])


class TestViewsOfThoseThatAreThere:
    @pytest.mark.parametrize("kind", [PI0Policy, SmolVLAPolicy])
    def test_images_for_missing_cameras_may_follow(self, head: DepthHead, kind: type[_Policy]) -> None:
        policy = kind("front", "wrist", "side", EMPTY)
        with attach_depth_head(policy, head, cameras=["wrist", "side"]) as depth:
            policy.select_action(observation("wrist", "side"))
            wrist, side, *others = depth.read()
            assert (wrist.camera, side.camera) == ("wrist", "side")
            assert [other.camera for other in others] == [None] * (2 if kind is PI0Policy else 1)
            policy.select_action(observation("side"))
            assert {found.camera for found in depth.read()} == {None}
            policy.select_action(observation("front", "wrist", "side"))
            assert {found.camera for found in depth.read()} == {None}


def test_the_log_says_once_that_names_are_missing_and_how_to_have_them(
    head: DepthHead, caplog: pytest.LogCaptureFixture
) -> None:
    policy = PI0Policy("front", "wrist")
    with (
        attach_depth_head(policy, head) as depth,
        caplog.at_level(logging.WARNING, "spaceclip_plugin.attach.cameras"),
    ):
        depth.refresh(images(0))  # whose camera the caller knows
        depth.read()
        policy.select_action(observation("front", "wrist"))
        depth.read()
        assert [record for record in caplog.records if record.name.endswith("attach.cameras")] == []
        for _ in range(3):
            policy.select_action(observation("wrist"))
            depth.read()
    [record] = [record for record in caplog.records if record.name.endswith("attach.cameras")]
    assert "front, wrist" in record.getMessage()
    assert "given(observation)" in record.getMessage()


def test_what_a_policy_does_for_missing_cameras() -> None:
    def order(policy: nn.Module) -> CameraOrder:
        declared = declared_cameras([policy])
        assert declared is not None
        return declared.order

    assert order(SmolVLAPolicy("a", EMPTY)) == CameraOrder(("a", EMPTY), frozenset({EMPTY}), leaves_out=True)
    assert order(PI0Policy("a", EMPTY)) == CameraOrder(("a", EMPTY), frozenset({EMPTY}))
    odd = SmolVLAPolicy("a", EMPTY)
    odd.config.empty_cameras = 2  # not what its placeholders say
    assert not order(odd).leaves_out


@pytest.mark.parametrize(
    ("names", "blank", "expected"),
    [
        (("a", EMPTY), [False, True], ["a", EMPTY]),
        ((EMPTY, "a"), [False, True], ["a", EMPTY]),  # placeholders are called last, wherever they are declared
        (("a", "b", EMPTY), [True, False, True], ["a", "b", EMPTY]),  # a is dark; were it missing, b would be first
        (("a", "b", EMPTY), [False, True, True], [None] * 3),
        (("a", "b", EMPTY), [False, False, False], ["a", "b", EMPTY]),
        (("a",), [True], ["a"]),
        (("a",), [None], [None]),
        (("a",), [False, True, False], [None] * 3),
        (("a", "b"), [False], [None]),
        (("a", "b"), [False, True], [None] * 2),
    ],
)
def test_certain_names(names: tuple[str, ...], blank: list[bool | None], expected: list[str | None]) -> None:
    assert names_of_step(CameraOrder(names, frozenset({EMPTY})), blank) == expected
