"""Reading depth, and what stays of the host and of an attachment."""

from __future__ import annotations

import copy
import gc
import io
import logging
import pickle
import threading
import weakref

import pytest
import timm
import torch
from clip_world import SMALL, TwoEyes, clip_host, head, hook_count, host, images, see
from fresh_heads import fresh_head
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from spaceclip_plugin import DepthHead, attach_depth_head
from spaceclip_plugin.attach import UnreadFrames
from spaceclip_plugin.errors import (
    CaptureError,
    ConfigError,
)
from spaceclip_plugin.head import ARCHITECTURES

__all__ = ["head", "host"]  # fixtures


class TestReading:
    def test_each_image_call_gives_one_map_in_order_and_once(self, host: nn.Module, head: DepthHead) -> None:
        with attach_depth_head(host, head) as depth:
            singles = []
            for seed in (1, 2, 3):
                see(host, seed)
                singles += depth.read()
            see(host, 1, 2, 3)
            together = depth.read()
            assert depth.read() == []
        assert [frame.frame for frame in together] == [3, 4, 5]
        for one, other in zip(singles, together, strict=True):
            assert torch.equal(one.depth_m, other.depth_m)
        assert not torch.equal(together[0].depth_m, together[1].depth_m)

    def test_batches_are_decoded_as_their_images_alone(self, host: nn.Module, head: DepthHead) -> None:
        with attach_depth_head(host, head) as depth, torch.no_grad():
            batch = images(5, batch=3)
            host(batch)
            [whole] = depth.read()
            host(batch[1:2])
            [one] = depth.read()
        assert whole.depth_m.shape == (3, 32, 32)
        torch.testing.assert_close(whole.depth_m[1:2], one.depth_m)

    @pytest.mark.parametrize("size", [(1, 1), (7, 13), (64, 48)])
    def test_any_output_size(self, host: nn.Module, head: DepthHead, size: tuple[int, int]) -> None:
        with attach_depth_head(host, head) as depth:
            see(host, 1)
            [frame] = depth.read(size)
        assert frame.depth_m.shape == (1, *size)

    @pytest.mark.parametrize("size", [(0, 4), (4,), (4, -1), (2.0, 3), (10**6, 4)])
    def test_an_impossible_size_is_refused(self, host: nn.Module, head: DepthHead, size: tuple[int, int]) -> None:
        with attach_depth_head(host, head) as depth:
            see(host, 1, 2)
            with pytest.raises(ConfigError, match="output_size"):
                depth.read(size)
            assert len(depth.read()) == 2  # both frames wait

    def test_latest_is_the_newest_map_read(self, host: nn.Module, head: DepthHead) -> None:
        with attach_depth_head(host, head) as depth:
            assert depth.latest is None
            see(host, 1, 2)
            maps = depth.read()
            assert depth.latest.depth_m is maps[-1].depth_m
            depth.read()
            assert (depth.latest.depth_m is maps[-1].depth_m, depth.latest.age) == (True, 1)

    def test_unread_frames_are_bounded_and_counted(self, host: nn.Module, head: DepthHead) -> None:
        with attach_depth_head(host, head, unread=UnreadFrames(max_frames=2)) as depth:
            see(host, 1, 2, 3, 4, 5)
            assert depth.dropped == 3
            assert [frame.frame for frame in depth.read()] == [3, 4]
            assert depth.dropped == 3

    def test_dropped_frames_are_released(self, host: nn.Module, head: DepthHead) -> None:
        with attach_depth_head(host, head, unread=UnreadFrames(max_frames=1)) as depth:
            kept: list[weakref.ref[Tensor]] = []
            handle = depth._recorder.tower.blocks[0].register_forward_hook(
                lambda _m, _a, output: kept.append(weakref.ref(output if isinstance(output, Tensor) else output[0]))
            )
            see(host, 1, 2, 3)
            handle.remove()
            gc.collect()
            assert sum(ref() is not None for ref in kept) <= 1

    def test_what_was_read_is_released(self, host: nn.Module, head: DepthHead) -> None:
        with attach_depth_head(host, head) as depth:
            see(host, 1)
            kept = [weakref.ref(value) for value in depth._recorder._frames[0].hidden.values()]
            assert all(ref() is not None for ref in kept)
            depth.read()
            gc.collect()
            assert all(ref() is None for ref in kept)

    def test_a_head_in_train_mode_reads_as_in_eval_mode_and_stays(self, host: nn.Module, head: DepthHead) -> None:
        with attach_depth_head(host, head) as depth:
            see(host, 1, 1)
            head.train()
            first, second = depth.read()
            assert head.training
        assert torch.equal(first.depth_m, second.depth_m)

    def test_captures_hold_no_graph(self, host: nn.Module, head: DepthHead) -> None:
        with attach_depth_head(host, head) as depth:
            host(images(1))
            [features] = depth.features()
        assert not any(value.requires_grad for value in features.hidden.values())

    def test_features_can_train_a_head(self, host: nn.Module, head: DepthHead) -> None:
        with attach_depth_head(host, head) as depth:
            see(host, 1)
            [features] = depth.features()
        head(features).depth_m.mean().backward()
        assert all(parameter.grad is None for parameter in host.parameters())
        assert any(parameter.grad is not None for parameter in head.parameters())

    def test_host_autocast_does_not_reach_the_head(self, host: nn.Module, head: DepthHead) -> None:
        with attach_depth_head(host, head) as depth, torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            host(images(1))
            [features] = depth.features()
            host(images(1))
            [frame] = depth.read()
        with torch.no_grad():
            assert torch.equal(frame.depth_m, head(features).depth_m)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_half_precision_hosts(self, head: DepthHead, dtype: torch.dtype) -> None:
        if dtype == torch.float16 and torch.__version__ < "2.3":
            pytest.skip("torch before 2.3 has no float16 layer norm on the CPU")
        host = clip_host().to(dtype)
        with attach_depth_head(host, head) as depth, torch.no_grad():
            host(images(1).to(dtype))
            [frame] = depth.read()
        assert frame.depth_m.dtype == torch.float32

    def test_inference_mode(self, host: nn.Module, head: DepthHead) -> None:
        with attach_depth_head(host, head) as depth, torch.inference_mode():
            host(images(1))
            [inside] = depth.read()
            host(images(1))
        [outside] = [inside]
        assert torch.isfinite(outside.depth_m).all()

    def test_a_checkpointed_tower_is_seen_once(self, head: DepthHead) -> None:
        host = clip_host()
        with attach_depth_head(host, head) as depth:
            output = checkpoint(lambda x: host(x).last_hidden_state, images(1).requires_grad_(), use_reentrant=False)
            output.sum().backward()  # runs the tower once more
            assert [frame.frame for frame in depth.read()] == [0]

    def test_two_threads_do_not_mix_their_frames(self, host: nn.Module, head: DepthHead) -> None:
        with attach_depth_head(host, head, unread=UnreadFrames(max_frames=1000)) as depth:
            expected = {}
            for batch in (1, 2):
                see(host, batch, batch=batch)
                [expected[batch]] = depth.read()
            threads = [
                threading.Thread(target=see, args=(host, *[batch] * 20), kwargs={"batch": batch}) for batch in (1, 2)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            frames = depth.read()
        assert len(frames) == 40
        for frame in frames:
            torch.testing.assert_close(frame.depth_m, expected[len(frame)].depth_m)

    def test_the_untrained_head_says_so_once(
        self, host: nn.Module, head: DepthHead, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.WARNING), attach_depth_head(host, head) as depth:
            see(host, 1, 2)
            assert not any(frame.trained for frame in depth.read())
        assert sum("random weights" in record.message for record in caplog.records) == 1

    def test_without_a_head_a_fresh_one_is_made(self, host: nn.Module) -> None:
        with attach_depth_head(clip_host(num_hidden_layers=4)) as depth:
            assert depth.head.config.blocks == 4
            assert not depth.head.trained

    def test_a_saved_head_is_loaded(self, host: nn.Module, head: DepthHead, tmp_path) -> None:
        head.save_pretrained(tmp_path / "head")
        with attach_depth_head(host, str(tmp_path / "head")) as loaded, attach_depth_head(host, head) as given:
            see(host, 1)
            assert torch.equal(loaded.read()[0].depth_m, given.read()[0].depth_m)


class TestHost:
    def test_the_head_is_not_inside_the_host(self, host: nn.Module, head: DepthHead) -> None:
        with attach_depth_head(host, head):
            assert all(module is not head for module in host.modules())

    def test_a_copied_host_does_not_feed_the_original(self, host: nn.Module, head: DepthHead) -> None:
        with attach_depth_head(host, head) as depth:
            twin = copy.deepcopy(host)
            see(twin, 1)
            assert depth.read() == []
            see(host, 1)
            assert len(depth.read()) == 1

    def test_a_host_with_taps_can_be_pickled(self, host: nn.Module, head: DepthHead) -> None:
        with attach_depth_head(host, head) as depth:
            twin = pickle.loads(pickle.dumps(host))
            see(twin, 1)
            assert depth.read() == []
            torch.save(host, io.BytesIO())

    def test_an_error_inside_a_tap_never_reaches_the_host(
        self, host: nn.Module, head: DepthHead, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with attach_depth_head(host, head) as depth:
            monkeypatch.setattr(depth._recorder, "keep", lambda *_: 1 / 0)
            see(host, 1)
            monkeypatch.undo()
            with pytest.raises(CaptureError, match="ZeroDivisionError"):
                depth.read()
            see(host, 2)
            assert len(depth.read()) == 1

    def test_an_error_in_the_host_is_its_own(self, host: nn.Module, head: DepthHead) -> None:
        with attach_depth_head(host, head) as depth:
            handle = depth._recorder.tower.blocks[1].register_forward_pre_hook(lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                see(host, 1)
            handle.remove()
            see(host, 2)
            with pytest.raises(CaptureError, match="did not reach: hidden state 3, the context"):
                depth.read()
            assert [frame.frame for frame in depth.read()] == [1]

    @pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
    def test_activations_that_are_not_finite(self, host: nn.Module, head: DepthHead, bad: float) -> None:
        with attach_depth_head(host, head) as depth, torch.no_grad():
            pixels = images(1)
            pixels[0, 0, 3, 3] = bad
            host(pixels)
            with pytest.raises(CaptureError, match="hidden state 0 of image call 0 holds NaN or infinity"):
                depth.read()
            see(host, 2)
            assert len(depth.read()) == 1

    @pytest.mark.parametrize("architecture", ARCHITECTURES)
    @pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
    @pytest.mark.parametrize("tap", [0, 1, 3])
    def test_one_bad_value_of_one_tap_is_told_by_its_name(
        self, host: nn.Module, architecture: str, bad: float, tap: int
    ) -> None:
        options = SMALL if architecture == "space-clip" else {"taps": (0, 1, 3), "channels": (8, 4)}
        with attach_depth_head(host, fresh_head(host, **{**options, "architecture": architecture})) as depth:
            see(host, 1)
            hidden = depth._recorder.newest().hidden
            hidden[tap] = hidden[tap].index_fill(1, torch.tensor([16]), bad)  # the last token
            with pytest.raises(CaptureError, match=f"hidden state {tap} of image call 0 holds NaN or infinity"):
                depth.read()
            see(host, 2)
            assert len(depth.read()) == 1

    def test_an_empty_batch(self) -> None:
        host = timm.create_model(
            "vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=32, depth=3, num_heads=4
        ).eval()
        with attach_depth_head(host, fresh_head(host, **SMALL)) as depth, torch.no_grad():
            host(torch.zeros(0, 3, 32, 32))
            with pytest.raises(CaptureError, match="non-empty"):
                depth.read()


class TestClosing:
    def test_nothing_stays(self, host: nn.Module, head: DepthHead) -> None:
        before = hook_count(host)
        depth = attach_depth_head(host, head)
        assert hook_count(host) > before
        see(host, 1)
        depth.close()
        depth.close()
        assert hook_count(host) == before
        assert depth.read() == []
        see(host, 1)
        assert depth.read() == []
        assert "closed" in repr(depth)

    def test_an_error_in_the_block_detaches(self, host: nn.Module, head: DepthHead) -> None:
        before = hook_count(host)
        with pytest.raises(KeyError), attach_depth_head(host, head):
            raise KeyError
        assert hook_count(host) == before

    @pytest.mark.parametrize("step", range(4))
    def test_a_hook_that_cannot_be_registered_leaves_none(
        self, host: nn.Module, head: DepthHead, monkeypatch: pytest.MonkeyPatch, step: int
    ) -> None:
        before, calls = hook_count(host), []
        for name in ("register_forward_hook", "register_forward_pre_hook"):
            real = getattr(nn.Module, name)

            def failing(module: nn.Module, *args: object, real=real, **kwargs: object) -> object:
                calls.append(module)
                if len(calls) > step:
                    raise MemoryError
                return real(module, *args, **kwargs)

            monkeypatch.setattr(nn.Module, name, failing)
        with pytest.raises(MemoryError):
            attach_depth_head(host, head)
        assert len(calls) == step + 1
        assert hook_count(host) == before

    def test_closed_attachments_refuse_to_work(self, host: nn.Module, head: DepthHead) -> None:
        depth = attach_depth_head(host, head)
        depth.close()
        for action in (lambda: depth.verify(lambda: host(images(1))), lambda: depth.refresh(images(1))):
            with pytest.raises(ConfigError, match="closed"):
                action()


def test_one_of_two_towers_is_read(head: DepthHead) -> None:
    host = TwoEyes()
    inner = ".vision_model" if hasattr(host.left, "vision_model") else ""
    with (
        attach_depth_head(host, head, tower=f"left{inner}") as left,
        attach_depth_head(host, head, tower=f"right{inner}") as right,
        attach_depth_head(host.left, head) as alone,
    ):
        see(host, 1)
        [seen_left], [seen_right], [seen_alone] = left.read(), right.read(), alone.read()
    assert torch.equal(seen_left.depth_m, seen_alone.depth_m)
    assert not torch.equal(seen_left.depth_m, seen_right.depth_m)


@pytest.mark.parametrize("wrong", [None, torch.zeros(3, 32, 32), torch.zeros(0, 3, 32, 32)])
def test_refresh_takes_a_batch_of_images(host: nn.Module, head: DepthHead, wrong: object) -> None:
    with attach_depth_head(host, head) as depth, pytest.raises(ConfigError, match=r"\(B, 3, H, W\)"):
        depth.refresh(wrong)  # type: ignore[arg-type]
