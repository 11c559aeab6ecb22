"""Frames through errors, interrupts, threads and forgetful users."""

from __future__ import annotations

import copy
import gc
import pickle
import threading

import pytest
import torch
from clip_world import clip_host, head, hook_count, host, images, see
from torch import nn

from spaceclip_plugin import DepthHead, attach_depth_head
from spaceclip_plugin.attach import UnreadFrames
from spaceclip_plugin.errors import (
    CaptureError,
    HostError,
)

__all__ = ["head", "host"]  # fixtures


class TestFrames:
    """No frame is lost to another, mixed with another or kept for ever."""

    def test_a_bad_frame_costs_only_itself(self, host: nn.Module, head: DepthHead) -> None:
        with attach_depth_head(host, head) as depth, torch.no_grad():
            see(host, 1)
            host(torch.full((1, 3, 32, 32), float("nan")))
            see(host, 2)
            for read in (depth.features, depth.read):
                if read == depth.read:
                    host(torch.full((1, 3, 32, 32), float("nan")))
                with pytest.raises(CaptureError, match="NaN"):
                    read()
            assert [frame.frame for frame in depth.read()] == [0, 2]

    def test_an_interrupted_read_loses_nothing(
        self, host: nn.Module, head: DepthHead, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with attach_depth_head(host, head) as depth:
            see(host, 1, 2)
            with monkeypatch.context() as patch:
                patch.setattr(head, "forward", lambda *_args, **_kwargs: (_ for _ in ()).throw(KeyboardInterrupt))
                with pytest.raises(KeyboardInterrupt):
                    depth.read()
            assert [frame.frame for frame in depth.read()] == [0, 1]

    def test_a_reader_in_another_thread_waits_for_whole_frames(self, host: nn.Module, head: DepthHead) -> None:
        calls, errors, seen = 60, [], []
        with attach_depth_head(host, head, unread=UnreadFrames(max_frames=1000)) as depth:
            driver = threading.Thread(target=see, args=(host, *range(calls)))
            driver.start()
            while driver.is_alive():
                try:
                    seen += depth.read((4, 4))
                except CaptureError as error:
                    errors.append(error)
            driver.join()
            seen += depth.read((4, 4))
        assert errors == []
        assert [frame.frame for frame in seen] == list(range(calls))

    def test_a_forgotten_attachment_takes_its_hooks_along(self, host: nn.Module, head: DepthHead) -> None:
        before = hook_count(host)
        depth = attach_depth_head(host, head)
        see(host, 1)
        del depth
        gc.collect()
        assert hook_count(host) == before

    def test_attaching_draws_no_random_numbers(self, host: nn.Module) -> None:
        state = torch.get_rng_state()
        with attach_depth_head(clip_host()):
            assert torch.equal(torch.get_rng_state(), state)

    def test_a_part_of_the_head_that_is_frozen_in_eval_stays_so(self, host: nn.Module, head: DepthHead) -> None:
        head.train()
        head.decoder.depth.eval()
        with attach_depth_head(host, head) as depth:
            see(host, 1)
            depth.read()
        assert head.training
        assert not head.decoder.depth.training

    @pytest.mark.parametrize("size", [(1, 1), (31, 33), (64, 64)])
    def test_images_of_a_size_the_tower_refuses(self, host: nn.Module, head: DepthHead, size: tuple[int, int]) -> None:
        with attach_depth_head(host, head) as depth:
            with pytest.raises(CaptureError, match=r"refused images of shape .* built for 32x32"):
                depth.refresh(torch.zeros(1, 3, *size))
            depth.refresh(images(1))
            assert len(depth.read()) == 1

    def test_an_attachment_is_not_copied(self, host: nn.Module, head: DepthHead) -> None:
        with attach_depth_head(host, head) as depth:
            for copier in (copy.deepcopy, pickle.dumps):
                with pytest.raises(HostError, match="live link"):
                    copier(depth)
