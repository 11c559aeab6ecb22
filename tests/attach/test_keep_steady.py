"""Steady depth of an attachment: every depth map it gives, told where its cameras are."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import timm
import torch
from stand_ins.room_video import place, room
from torch import nn

from spaceclip_plugin import attach_depth_head
from spaceclip_plugin.attach import DepthReader
from spaceclip_plugin.errors import ConfigError, HostError
from spaceclip_plugin.steady import SteadyDepth
from spaceclip_plugin.steady.steady_depth import FIRST
from spaceclip_plugin.towers import find_towers


@pytest.fixture(scope="module")
def host() -> nn.Module:
    torch.manual_seed(0)
    return timm.models.VisionTransformer(img_size=224, patch_size=16, embed_dim=32, depth=4, num_heads=2).eval()


@pytest.fixture(scope="module")
def images() -> list[torch.Tensor]:
    """Of a camera that hardly moves: tokens of random weights tell little of what they show."""
    return [room(place(0.004 * index)).pixels[None] for index in range(4)]


def test_depth_is_that_of_the_frame_unless_it_is_asked_for(host: nn.Module, images: list[torch.Tensor]) -> None:
    with torch.no_grad(), attach_depth_head(host) as depth:
        host(images[0])
        [alone] = depth.read()
        assert alone.steady == ()
        assert depth.steady is None
        assert depth.keep_steady() is depth
        host(images[0])
        [first] = depth.read()
        host(images[1])
        [second] = depth.read()
    assert first.steady[0].reset == FIRST
    torch.testing.assert_close(first.depth_m, alone.depth_m)
    assert (second.steady[0].frames, second.steady[0].reset) == (2, None)
    assert depth.latest is not None
    assert depth.latest.steady[0].frames == 2


def test_cameras_are_followed_each_and_told_their_places(host: nn.Module, images: list[torch.Tensor]) -> None:
    steady = SteadyDepth()
    with torch.no_grad(), attach_depth_head(host, cameras=["left", "right"]).keep_steady(steady) as depth:
        for index in range(3):
            host(images[index]), host(images[3 - index])
            depth.place({"left": place(0.004 * index), "right": None})
            left, right = depth.read()
        assert depth.steady is steady
    assert [(one.camera, one.steady[0].frames) for one in (left, right)] == [("left", 3), ("right", 3)]
    of_left, of_right = steady.state_dict()["videos"]
    assert "place" in of_left
    assert "place" not in of_right


def test_a_place_holds_for_the_next_read_alone(host: nn.Module, images: list[torch.Tensor]) -> None:
    steady = SteadyDepth()
    with torch.no_grad(), attach_depth_head(host).keep_steady(steady) as depth:
        depth.place(np.eye(4))
        host(images[0])
        depth.read()
        assert "place" in steady.state_dict()["videos"][0]
        host(images[1])
        depth.read()
    assert "place" not in steady.state_dict()["videos"][0]


def test_depth_read_in_the_background_is_steady_too(host: nn.Module, images: list[torch.Tensor]) -> None:
    with torch.no_grad(), attach_depth_head(host).keep_steady() as depth, DepthReader(depth, background=True) as reader:
        for index in range(3):
            host(images[index])
            depth.place(place(0.004 * index))
            reader.step()
            reader.wait()
        assert reader.latest is not None
        assert reader.latest.steady[0].frames == 3


def test_the_hosts_outputs_are_the_same_bits(host: nn.Module, images: list[torch.Tensor]) -> None:
    with torch.no_grad(), attach_depth_head(host).keep_steady() as depth:
        assert depth.verify(lambda: host(images[0])).identical


def test_a_missing_camera_ends_no_video(host: nn.Module, images: list[torch.Tensor]) -> None:
    with torch.no_grad(), attach_depth_head(host).keep_steady() as depth:
        for image in (images[0], torch.full_like(images[0], -1.0), images[1]):
            host(image)
            [seen] = depth.read()
    assert seen.steady[0].frames == 2


def test_places_are_checked_before_they_are_kept(host: nn.Module) -> None:
    with attach_depth_head(host, cameras=["left", "right"]) as depth:
        with pytest.raises(ConfigError, match="keep_steady"):
            depth.place({"left": np.eye(4)})
        depth.keep_steady()
        with pytest.raises(ConfigError, match="by name"):
            depth.place(np.eye(4))
        with pytest.raises(ConfigError, match="'lef'"):
            depth.place({"lef": np.eye(4)})
        with pytest.raises(ConfigError, match="rigid"):
            depth.place({"left": np.eye(4) * 2})


def test_frames_that_wait_are_read_first(host: nn.Module, images: list[torch.Tensor]) -> None:
    with torch.no_grad(), attach_depth_head(host) as depth:
        host(images[0])
        with pytest.raises(ConfigError, match="wait"):
            depth.keep_steady()
        depth.skip()
        depth.keep_steady()


def test_an_adapter_without_images_is_refused(host: nn.Module) -> None:
    [tower] = find_towers(host)

    class Blind(type(tower.adapter)):  # type: ignore[misc]
        gives_pixels = False

    blind = dataclasses.replace(tower, adapter=Blind(**vars(tower.adapter)))
    with attach_depth_head(host, tower=blind) as depth, pytest.raises(HostError, match="image"):
        depth.keep_steady()
