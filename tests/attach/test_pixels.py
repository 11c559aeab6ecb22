"""A head that reads pixels gets those that the tower saw, or an error: never others."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from clip_world import clip_host, images
from torch import nn

from spaceclip_plugin import DepthHead, attach_depth_head
from spaceclip_plugin.attach import UnreadFrames
from spaceclip_plugin.errors import CaptureError, HeadMismatchError
from spaceclip_plugin.towers import find_towers


@pytest.fixture(scope="module")
def host() -> nn.Module:
    return clip_host().eval()


@pytest.fixture(scope="module")
def head(host: nn.Module) -> DepthHead:
    options = {"taps": (1, 2), "channels": (8,), "convolutions": (1,), "pixels": 4}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return DepthHead.for_tower(host, options=options).eval()


@torch.no_grad()
def test_the_head_gets_the_images_of_every_call(host: nn.Module, head: DepthHead) -> None:
    with attach_depth_head(host, head) as depth:
        for seed in (1, 2):
            host(images(seed))
        features = depth.features()
        assert [torch.equal(one.pixels, images(seed)) for one, seed in zip(features, (1, 2), strict=True)] == [True] * 2
        host(images(3))
        [read] = depth.read()
        host(images(3))
        [given] = depth.features()
        assert torch.equal(read.depth_m, head(given).depth_m)


@torch.no_grad()
def test_images_that_the_host_wrote_over_are_refused(host: nn.Module, head: DepthHead) -> None:
    buffer = images(1)
    with attach_depth_head(host, head) as depth:
        host(buffer)
        buffer.copy_(images(2))
        with pytest.raises(CaptureError, match="copy=True"):
            depth.read()
        host(buffer)
        assert len(depth.read()) == 1


@torch.no_grad()
def test_copies_outlive_what_the_host_writes(host: nn.Module, head: DepthHead) -> None:
    buffer = images(1)
    with attach_depth_head(host, head, unread=UnreadFrames(copy=True)) as depth:
        host(buffer)
        buffer.zero_()
        [features] = depth.features()
    assert torch.equal(features.pixels, images(1))


@torch.no_grad()
def test_the_host_gives_the_same_bits(host: nn.Module, head: DepthHead) -> None:
    alone = host(images(5)).pooler_output
    with attach_depth_head(host, head) as depth:
        assert torch.equal(host(images(5)).pooler_output, alone)
        report = depth.verify(lambda: host(images(5)).pooler_output)
    assert report.identical


def test_a_tower_whose_images_cannot_be_put_on_a_grid_is_refused_before_the_first_hook(
    host: nn.Module, head: DepthHead
) -> None:
    [tower] = find_towers(host)
    blind = copy.copy(tower.adapter)
    blind.gives_pixels = False
    with pytest.raises(HeadMismatchError, match="pixels=0"):
        attach_depth_head(host, head, tower=dataclasses.replace(tower, adapter=blind))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in host.modules())
