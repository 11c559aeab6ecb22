"""Policies that pad bring their own mapping, once their images are padded as their configuration says."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from fresh_heads import fresh_head
from torch import nn

from spaceclip_plugin import DepthHead, DepthMap, Intrinsics, attach_depth_head
from spaceclip_plugin.depth.image_mapping import ImageMapping
from spaceclip_plugin.errors import ConfigError

pytest.importorskip("lerobot.policies", reason="needs lerobot, in an environment of its own: make test-lerobot")

from tiny_policies import POLICIES
from tiny_policy import CAMERA_HW, CAMERAS, TinyPolicy

CAMERA = Intrinsics(50.0, 50.0, 32.0, 24.0, CAMERA_HW)  # of square pixels
ANCHORS = {"pi0": "centre", "pi05": "centre", "pi0_fast": "centre", "smolvla": "bottom-right", "xvla": "bottom-right"}
PADDING = [tiny for tiny in POLICIES if tiny.name in ANCHORS]


def head(policy: nn.Module) -> DepthHead:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return fresh_head(policy, architecture="tap-mixer", channels=(8,), convolutions=(0,)).eval()


def batch(tiny: TinyPolicy, *, hw: tuple[int, int] = CAMERA_HW, **images: torch.Tensor) -> dict[str, Any]:
    found = tiny.batch(1)
    shown = torch.rand(1, 3, *hw, generator=torch.Generator().manual_seed(0))
    return {**found, **{camera: images.get(camera.rpartition(".")[2], shown) for camera in CAMERAS}}


def read(policy: Any, depth: Any, given: dict[str, Any]) -> list[DepthMap]:
    policy.reset()
    with torch.no_grad():
        policy.select_action(dict(given))
    return depth.read()


@pytest.mark.parametrize("tiny", PADDING, ids=lambda tiny: tiny.name)
class TestAsDeclared:
    def test_padding_is_not_valid_and_pixels_stay_square(self, tiny: TinyPolicy) -> None:
        policy = tiny.seeded()
        expected = ImageMapping.letterboxed(CAMERA_HW, tiny.image_hw, anchor=ANCHORS[tiny.name])  # type: ignore[arg-type]
        with attach_depth_head(policy, head(policy)) as depth:
            maps = read(policy, depth, batch(tiny))
        assert [found.mapping for found in maps] == [expected] * tiny.calls
        bar = tiny.image_hw[0] // 4  # 4:3 in a square
        top = bar // 2 if ANCHORS[tiny.name] == "centre" else bar
        for found in maps:
            assert int(found.valid.sum()) == len(found) * 3 * bar * tiny.image_hw[1]
            assert bool(found.valid[:, top : top + 3 * bar].all())
            assert not found.depth_m[~found.valid].any()
            tower = found.tower_intrinsics(CAMERA)
            assert tower.fx_px == tower.fy_px == 50 * tiny.image_hw[1] / CAMERA_HW[1]
            assert found.in_camera().image_hw == CAMERA_HW
            assert bool(found.in_camera().valid.all())

    def test_what_a_user_says_holds(self, tiny: TinyPolicy) -> None:
        policy = tiny.seeded()
        mine = ImageMapping.stretched((36, 64), tiny.image_hw)
        with attach_depth_head(policy, head(policy), mapping=mine) as depth:
            assert [found.mapping for found in read(policy, depth, batch(tiny))] == [mine] * tiny.calls

    @pytest.mark.parametrize("hw", [(36, 64), (64, 64), (64, 48)])
    def test_a_camera_of_another_shape_than_declared(
        self, tiny: TinyPolicy, hw: tuple[int, int], caplog: pytest.LogCaptureFixture
    ) -> None:
        policy, given = tiny.seeded(), batch(tiny, hw=hw)
        with attach_depth_head(policy, head(policy)) as depth, caplog.at_level(logging.WARNING):
            maps = read(policy, depth, given)
            again = read(policy, depth, given)
        said = [record.message for record in caplog.records if "mapping=" in record.message]
        assert len(said) == tiny.calls  # once for each camera, or for the call of all of them
        true = ImageMapping.letterboxed(hw, tiny.image_hw, anchor=ANCHORS[tiny.name])  # type: ignore[arg-type]
        for found in maps + again:
            assert found.mapping is None
            assert torch.equal(found.valid, true.valid_tower_pixels().expand_as(found.valid))
            with pytest.raises(ConfigError, match=r"48x64.*mapping="):
                found.points(CAMERA)
            with pytest.raises(ConfigError, match="mapping="):
                found.in_camera()
            assert found.in_camera(true).image_hw == hw

    def test_another_resolution_of_the_same_shape(self, tiny: TinyPolicy) -> None:
        policy = tiny.seeded()
        with attach_depth_head(policy, head(policy)) as depth:
            maps = read(policy, depth, batch(tiny, hw=(96, 128)))
        assert all(found.mapping is not None for found in maps)

    def test_a_dark_edge_is_no_other_camera_once_the_first_agreed(self, tiny: TinyPolicy) -> None:
        policy = tiny.seeded()
        bright = batch(tiny)
        dark = {camera: bright[camera].clone() for camera in CAMERAS}
        for image in dark.values():
            image[:, :, :8] = 0
            image[:, :, -8:] = 0
        with attach_depth_head(policy, head(policy)) as depth:
            first = read(policy, depth, bright)
            second = read(policy, depth, {**bright, **dark})
        assert [found.mapping for found in second] == [found.mapping for found in first]
        assert all(found.mapping is not None for found in second)


def test_a_camera_that_is_missing(caplog: pytest.LogCaptureFixture) -> None:
    tiny = next((one for one in POLICIES if one.name == "pi0"), None)
    if tiny is None:
        pytest.skip("this LeRobot's pi0 needs a transformers of its own")
    policy = tiny.seeded()
    given = batch(tiny)
    del given[CAMERAS[0]]
    with attach_depth_head(policy, head(policy)) as depth:
        wrist, stand_in = read(policy, depth, given)
    assert wrist.mapping == ImageMapping.letterboxed(
        CAMERA_HW, tiny.image_hw
    )  # both cameras are alike: whichever it is
    assert not bool(stand_in.valid.any())
    assert not [record for record in caplog.records if "mapping=" in record.message]
