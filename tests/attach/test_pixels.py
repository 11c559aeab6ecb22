"""A head that reads pixels gets those that the tower saw, or an error: never others."""

from __future__ import annotations

import contextlib
import copy
import dataclasses

import pytest
import torch
from clip_world import clip_host, images
from torch import nn

from spaceclip_plugin import DepthHead, attach_depth_head
from spaceclip_plugin.attach import UnreadFrames
from spaceclip_plugin.errors import CaptureError, HeadMismatchError
from spaceclip_plugin.towers import Tower, find_towers


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
def test_images_that_are_written_over_while_they_are_decoded_are_refused_too(host: nn.Module, head: DepthHead) -> None:
    buffer, decoding = images(1), copy.deepcopy(head)
    decoding.decoder.register_forward_hook(lambda *_: buffer.zero_())  # as another thread of the host's may
    with attach_depth_head(host, decoding) as depth:
        host(buffer)
        with pytest.raises(CaptureError, match="copy=True"):
            depth.read()


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


@pytest.mark.parametrize("counted", [True, False])
def test_in_inference_mode_images_that_are_written_over_are_refused_or_were_copied(
    host: nn.Module, head: DepthHead, counted: bool
) -> None:
    with torch.inference_mode(not counted):  # torch counts no changes of what is made there
        buffer = images(1)
    with torch.inference_mode(), attach_depth_head(host, head) as depth:
        host(buffer)
        buffer.copy_(images(2))
        if counted:
            with pytest.raises(CaptureError, match="copy=True"):
                depth.read()
        else:
            [features] = depth.features()
            assert torch.equal(features.pixels, images(1))


def test_a_frame_does_not_hold_the_graph_that_made_its_images(host: nn.Module, head: DepthHead) -> None:
    with attach_depth_head(host, head) as depth:
        host(images(1).requires_grad_() * 2)
        kept = depth._recorder.newest().call.taken
        assert not kept.requires_grad
        assert torch.equal(depth.features()[0].pixels, images(1) * 2)


@torch.no_grad()
def test_a_host_of_half_precision(host: nn.Module, head: DepthHead) -> None:
    low = copy.deepcopy(host).to(torch.bfloat16)
    with attach_depth_head(low, head) as depth:
        low(images(1).to(torch.bfloat16))
        [features] = depth.features()
        assert features.pixels.dtype == torch.bfloat16
        low(images(1).to(torch.bfloat16))
        [read] = depth.read()
    assert torch.equal(read.depth_m, head(features).depth_m)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@torch.no_grad()
def test_a_compiled_host_gives_the_images_of_every_call(head: DepthHead) -> None:
    pytest.importorskip("torch._dynamo", reason="this torch has no compiler").reset()
    host = clip_host().eval()
    compiled = torch.compile(host, backend="eager")
    buffer = images(1)
    with attach_depth_head(host, head) as depth:
        for seed in (1, 2, 3):
            buffer.copy_(images(seed))
            compiled(buffer)
            [features] = depth.features()
            assert torch.equal(features.pixels, images(seed))
        compiled(buffer)
        buffer.zero_()
        with contextlib.suppress(CaptureError):  # compiled code may count changes or not: then it made a copy
            [features] = depth.features()
            assert torch.equal(features.pixels, images(3))


def blind(host: nn.Module) -> Tower:
    """The tower, found by an adapter that cannot put its images on a grid."""
    [tower] = find_towers(host)
    adapter = copy.copy(tower.adapter)
    adapter.gives_pixels = False
    return dataclasses.replace(tower, adapter=adapter)


def test_a_tower_whose_images_cannot_be_put_on_a_grid_is_refused_before_the_first_hook(
    host: nn.Module, head: DepthHead
) -> None:
    with pytest.raises(HeadMismatchError, match=r"as DepthHead\.for_tower\(host\) makes"):
        attach_depth_head(host, head, tower=blind(host))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in host.modules())


@torch.no_grad()
def test_where_none_was_given_such_a_tower_gets_a_head_of_hidden_states_alone(host: nn.Module) -> None:
    with attach_depth_head(host, tower=blind(host)) as depth:
        assert not depth.head.uses_pixels
        host(images(1))
        assert len(depth.read()) == 1
