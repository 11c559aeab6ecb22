"""`verify`, and the exactness it measures."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
import torch
from clip_world import clip_host, head, hook_count, host, images, see
from torch import Tensor, nn

from spaceclip_plugin import DepthHead, attach_depth_head
from spaceclip_plugin.errors import (
    CaptureError,
)

__all__ = ["head", "host"]  # fixtures


class TestVerify:
    def test_an_eager_host_is_identical(self, host: nn.Module, head: DepthHead) -> None:
        with attach_depth_head(host, head) as depth:
            see(host, 1)
            report = depth.verify(lambda: host(images(2)))
            assert report.identical
            assert report.max_abs_difference == 0
            assert report.frames == 1
            assert [frame.frame for frame in depth.read()] == [0]  # the frame before is still there, no other came

    def test_dropout_draws_the_same_numbers(self, head: DepthHead) -> None:
        host = clip_host()
        host.config.attention_dropout = 0.5
        host.train()
        with attach_depth_head(host, head) as depth:
            state = torch.get_rng_state()
            assert depth.verify(lambda: host(images(1))).identical
            assert torch.equal(torch.get_rng_state(), state)

    def test_a_host_that_changes_is_found_out(self, head: DepthHead) -> None:
        class Drifting(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.inner = clip_host()
                self.calls = 0

            def forward(self, pixels: Tensor) -> Tensor:
                self.calls += 1
                return self.inner(pixels).last_hidden_state + self.calls

        drifting = Drifting()
        with attach_depth_head(drifting, head) as depth:
            report = depth.verify(lambda: drifting(images(1)))
        assert not report.identical
        assert report.max_abs_difference == pytest.approx(1.0)

    def test_a_call_without_vision_is_an_error(self, head: DepthHead) -> None:
        class Blind(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.inner = clip_host()

            def forward(self, pixels: Tensor) -> Tensor:
                return pixels

        blind = Blind()
        before = hook_count(blind)
        with attach_depth_head(blind, head) as depth:
            attached = hook_count(blind)
            with pytest.raises(CaptureError, match="did not"):
                depth.verify(lambda: blind(images(1)))
            assert hook_count(blind) == attached > before

    def test_verify_needs_something_to_compare(self, head: DepthHead) -> None:
        class Silent(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.inner = clip_host()

            def forward(self, pixels: Tensor) -> str:
                self.inner(pixels)
                return "done"

        silent = Silent()
        with attach_depth_head(silent, head) as depth, pytest.raises(CaptureError, match="could be compared"):
            depth.verify(lambda: silent(images(1)))

    def test_any_call_that_uses_the_host(self, host: nn.Module, head: DepthHead) -> None:
        with attach_depth_head(host, head) as depth:
            drawn = depth.verify(lambda: [host(images(1)).pooler_output, random.random(), np.random.rand(3)])  # noqa: NPY002
            assert drawn.identical
            assert drawn.frames == 1
            with pytest.raises(CaptureError, match="a queued action"):
                depth.verify(lambda: 1.0)
            counter = itertools.count()
            assert not depth.verify(lambda: host(images(next(counter))).pooler_output).identical

    def test_blocks_compiled_one_by_one_are_exact(self, host: nn.Module, head: DepthHead) -> None:
        with torch.no_grad():
            expected = host(images(1)).last_hidden_state
        with attach_depth_head(host, head) as depth:
            see(host, 1)
            [eager] = depth.read()
            for block in depth._recorder.tower.blocks:
                block.compile(backend="eager", fullgraph=True)
            with torch.no_grad():
                for _ in range(3):
                    assert torch.equal(host(images(1)).last_hidden_state, expected)
            for frame in depth.read():
                assert torch.equal(frame.depth_m, eager.depth_m)
