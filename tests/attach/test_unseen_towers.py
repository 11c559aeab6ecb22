"""A tower that ran while its taps saw nothing is an error of reading, not an empty list; one that rested is not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from clip_world import clip_host, head, host, images, see
from torch import nn

from spaceclip_plugin import DepthHead, attach_depth_head
from spaceclip_plugin.errors import CaptureError

__all__ = ["head", "host"]  # fixtures


def tower_of(host: Any) -> Any:
    return getattr(host, "vision_model", host)


def bypass_the_entry(host: nn.Module) -> None:
    """As a host does that calls `.forward()` of its patch convolution."""
    embeddings = tower_of(host).embeddings
    convolution = embeddings.patch_embedding
    embeddings.patch_embedding = Around(convolution)


class Around(nn.Module):
    def __init__(self, inner: nn.Conv2d) -> None:
        super().__init__()
        self.inner = [inner]
        self.weight = inner.weight

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.inner[0].forward(pixels)


def replay(host: nn.Module) -> None:
    """As a tower whose call replays what was captured of it, with none of its parts run again."""
    tower = tower_of(host)
    with torch.no_grad():
        recorded = tower(images(1))
    tower.forward = lambda *_args, **_kwargs: recorded


@pytest.mark.parametrize("read", ["read", "features", "skip", "read_later"])
@pytest.mark.parametrize("unseen", [bypass_the_entry, replay])
def test_a_tower_that_ran_unseen_is_an_error_once(host: nn.Module, head: DepthHead, unseen: Any, read: str) -> None:
    inner = nn.ModuleDict({"eye": host})
    with attach_depth_head(inner, head) as depth:
        getattr(depth, read)()
        unseen(host)
        depth._recorder.take()  # what preparing it left
        see(host, 2)
        with pytest.raises(CaptureError, match="ran, but its taps saw no image"):
            getattr(depth, read)()


def test_the_images_that_were_seen_stay(host: nn.Module, head: DepthHead) -> None:
    with attach_depth_head(host, head) as depth:
        see(host, 1)
        tower = tower_of(host)
        plain = tower.forward
        tower.forward = lambda *_args, **_kwargs: None
        with torch.no_grad():
            tower(images(2))
        tower.forward = plain
        with pytest.raises(CaptureError, match="saw no image"):
            depth.read()
        assert [frame.frame for frame in depth.read()] == [0]
        assert depth.read() == []


def test_a_tower_that_was_replaced_is_an_error(head: DepthHead) -> None:
    host = nn.ModuleDict({"eye": clip_host()})
    with attach_depth_head(host, head) as depth:
        see(host["eye"], 1)
        assert len(depth.read()) == 1
        assert depth.read() == []
        host["eye"] = clip_host()
        see(host["eye"], 1)
        with pytest.raises(CaptureError, match="no longer holds the tower"):
            depth.read()


def test_a_tower_that_was_wrapped_is_not_replaced(head: DepthHead) -> None:
    host = nn.ModuleDict({"eye": clip_host()})
    with attach_depth_head(host, head) as depth:
        host["eye"] = nn.Sequential(host["eye"])
        assert depth.read() == []
        see(host["eye"], 1)
        assert len(depth.read()) == 1


def test_a_policy_that_serves_queued_actions_reads_nothing(host: nn.Module, head: DepthHead) -> None:
    with attach_depth_head(host, head) as depth:
        see(host, 1)
        assert [len(depth.read()) for _ in range(4)] == [1, 0, 0, 0]


def test_reading_in_the_middle_of_a_call_is_no_fault(host: nn.Module, head: DepthHead) -> None:
    found: list[int] = []
    with attach_depth_head(host, head) as depth:
        last = tower_of(host).post_layernorm
        handle = last.register_forward_hook(lambda *_: found.extend([len(depth.read()), len(depth.read())]))
        see(host, 1)
        handle.remove()
        assert depth.read() == []
    assert found == [1, 0]
