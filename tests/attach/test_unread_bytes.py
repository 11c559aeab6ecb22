"""Unread frames are bounded by the memory they keep alive, and not by their number alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from clip_world import SMALL, clip_host, head, host, see
from fresh_heads import fresh_head
from torch import nn

from spaceclip_plugin import DepthHead, attach_depth_head
from spaceclip_plugin.attach import UnreadFrames
from spaceclip_plugin.errors import ConfigError
from spaceclip_plugin.towers.spec import ImageCall, RawFrame

__all__ = ["head", "host"]  # fixtures

ONE = 4 * (3 * 17 * 32 + 32 + 3 * 32 * 32)
"""Bytes of a frame of the small host: three hidden states, a context and the image, float32."""


def frame(pixels: int, held: int) -> RawFrame:
    """A frame of so many pixels that holds so many bytes, its pixels included."""
    hidden = {1: torch.zeros(held - pixels, dtype=torch.uint8)} if held else {}
    return RawFrame(0, ImageCall(1, None, None, torch.zeros(pixels, dtype=torch.uint8)), hidden=hidden)


@pytest.mark.parametrize(("frames", "bytes_"), [(1, 1), (1, ONE), (2, 2 * ONE), (2, 3 * ONE - 1), (3, 3 * ONE)])
def test_so_many_bytes_hold_so_many_frames(host: nn.Module, head: DepthHead, frames: int, bytes_: int) -> None:
    with attach_depth_head(host, head, unread=UnreadFrames(max_bytes=bytes_)) as depth:
        see(host, *range(8))
        assert depth.unread == frames
        assert depth.dropped == 8 - frames
        assert [one.frame for one in depth.read()] == list(range(8))[-frames:]


def test_the_number_bounds_too(host: nn.Module, head: DepthHead) -> None:
    with attach_depth_head(host, head, unread=UnreadFrames(2, 100 * ONE)) as depth:
        see(host, *range(8))
        assert (depth.unread, depth.dropped) == (2, 6)


@pytest.mark.slow
def test_frames_of_large_images_stay_within_the_bound() -> None:
    """4096 patches an image, as a Qwen-VL makes of a megapixel."""
    large = clip_host(image_size=512)
    one = 4 * (3 * 4097 * 32 + 32 + 3 * 512 * 512)
    bound = 5 * one // 2
    with attach_depth_head(large, fresh_head(large, **SMALL), unread=UnreadFrames(max_bytes=bound)) as depth:
        with torch.no_grad():
            for _ in range(5):
                large(torch.zeros(1, 3, 512, 512))
        assert (depth.unread, depth.dropped) == (2, 3)
        assert sum(waiting.held_bytes() for waiting in depth._recorder.take()) == 2 * one <= bound


def test_the_default_lets_the_number_decide_at_the_usual_sizes() -> None:
    so400m = 4 * 1152 * 256 * 7  # seven hidden states at 224 pixels, float32
    assert UnreadFrames().max_frames * so400m <= UnreadFrames().max_bytes == 256 * 2**20


@pytest.mark.parametrize(
    ("waiting", "pixels", "kept"),
    [
        ([(10, 100)], 10, 2),
        ([(10, 100)], 20, 2),  # 200 to come
        ([(10, 100), (20, 200)], 10, 2),  # 100 to come beside 200
        ([(10, 100), (10, 100)], 20, 2),  # 200 to come beside 100
        ([(20, 200), (10, 100)], 40, 1),  # 400 to come: alone
        ([(40, 400), (10, 100)], 10, 2),
    ],
)
def test_the_frame_to_come_is_reckoned_by_its_pixels(waiting: list[tuple[int, int]], pixels: int, kept: int) -> None:
    frames = [*(frame(*one) for one in waiting), frame(pixels, 0)]
    assert UnreadFrames(max_frames=16, max_bytes=300).kept(frames) == kept


def test_a_storage_behind_several_views_counts_once() -> None:
    states = torch.zeros(4, 8, 16)
    shared = RawFrame(0, ImageCall(1, None, None), hidden={0: states[0], 1: states[1]}, context=states[3, 0])
    assert shared.held_bytes() == 4 * 8 * 16 * 4


@pytest.mark.parametrize("name", ["max_frames", "max_bytes"])
@pytest.mark.parametrize("bound", [0, -1, 1.5, True, "1"])
def test_a_bound_that_is_none_is_refused_by_name(name: str, bound: object) -> None:
    with pytest.raises(ConfigError, match=name):
        UnreadFrames(**{name: bound})  # type: ignore[arg-type]


def test_bounds_of_any_integer_type_are_taken(host: nn.Module, head: DepthHead) -> None:
    bounds = UnreadFrames(np.int64(2), torch.tensor(100 * ONE))  # type: ignore[arg-type]
    with attach_depth_head(host, head, unread=bounds) as depth:
        see(host, 0, 1, 2)
        assert (depth.unread, depth.dropped) == (2, 1)


def test_a_frame_that_another_thread_adds_meanwhile_is_not_dropped(host: nn.Module, head: DepthHead) -> None:
    with attach_depth_head(host, head) as depth:
        recorder = depth._recorder

        class Slow(UnreadFrames):
            def kept(self, frames: Sequence[RawFrame]) -> int:
                count = super().kept(frames)
                recorder._frames.append(frame(1, 0))  # what another thread may do at this moment
                return count

        recorder._bounds = Slow()
        see(host, 0)
        assert (depth.unread, depth.dropped) == (2, 0)
