"""Depth every k-th step and in the background: the same depth, with its true age, and nothing lost or left behind."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Iterator
from unittest import mock

import numpy as np
import pytest
import torch
from clip_world import head, hook_count, host, images, see
from slow_head import SlowHead, truth
from torch import nn

from spaceclip_plugin import DepthHead, DepthReader, attach_depth_head
from spaceclip_plugin.attach import DepthAttachment
from spaceclip_plugin.errors import CaptureError, ConfigError

__all__ = ["head", "host"]  # fixtures


@pytest.fixture
def depth(host: nn.Module, head: DepthHead) -> Iterator[DepthAttachment]:
    with attach_depth_head(host, head) as attachment:
        yield attachment


def threads() -> int:
    return sum(thread.name == "spaceclip depth" for thread in threading.enumerate())


class TestEvery:
    def test_every_third_step_is_decoded_and_the_others_age(
        self, host: nn.Module, head: DepthHead, depth: DepthAttachment
    ) -> None:
        calls: list[int] = []
        head.register_forward_pre_hook(lambda *_: calls.append(1))
        seen, ages = [], []
        with DepthReader(depth, every=3) as reader:
            for step in range(7):
                see(host, step)
                seen += [(found.step, found.age) for found in reader.step()]
                assert reader.latest is not None
                ages.append(reader.latest.age)
        assert seen == [(0, 0), (3, 0), (6, 0)]
        assert ages == [0, 1, 2, 0, 1, 2, 0]
        assert len(calls) == 3
        assert (depth.unread, depth.dropped, depth.steps) == (0, 0, 7)

    def test_every_step_is_the_read_itself(self, host: nn.Module, head: DepthHead, depth: DepthAttachment) -> None:
        reader = DepthReader(depth)
        see(host, 0, 1)
        found = [frame.depth_m for frame in reader.step()]
        assert all(torch.equal(a, b) for a, b in zip(found, truth(host, head, 0, 1), strict=True))

    @pytest.mark.parametrize("chunk", [1, 4, 50])
    @pytest.mark.parametrize("every", [1, 3, 7, 60])
    def test_host_steps_are_counted_whenever_the_tower_runs(
        self, host: nn.Module, depth: DepthAttachment, chunk: int, every: int
    ) -> None:
        """A policy that queues a chunk of actions looks once per chunk: depth is as young as its looks allow."""
        apart = chunk * -(-every // chunk)  # `every`, rounded up to whole chunks
        steps = range(2 * apart + 1)
        seen, ages = [], []
        with DepthReader(depth, every=every, output_size=(1, 1)) as reader:
            for step in steps:
                if step % chunk == 0:
                    see(host, step)
                seen += [found.step for found in reader.step()]
                assert reader.latest is not None
                ages.append(reader.latest.age)
        assert seen == [0, apart, 2 * apart]
        assert ages == [step % apart for step in steps]
        assert (depth.unread, depth.steps) == (0, len(steps))

    def test_a_tower_that_runs_now_and_then_is_read_as_soon_as_it_may_be(
        self, host: nn.Module, depth: DepthAttachment
    ) -> None:
        seen = []
        with DepthReader(depth, every=5) as reader:
            for step in range(20):
                if step in (2, 4, 6, 8, 15, 19):
                    see(host, step)
                seen += [found.step for found in reader.step()]
        assert seen == [2, 8, 15]

    def test_a_step_that_cannot_be_read_ends_and_the_next_one_is_read(
        self, host: nn.Module, depth: DepthAttachment
    ) -> None:
        with DepthReader(depth, every=3) as reader:
            see(host, 0)
            [first] = reader.step()
            reader.step()
            reader.step()
            with torch.no_grad():
                host(torch.full_like(images(0), torch.nan))
            with pytest.raises(CaptureError, match="NaN or infinity"):
                reader.step()
            assert (depth.steps, first.age) == (4, 3)
            see(host, 1)
            [found] = reader.step()
        assert (found.step, found.age, first.age) == (4, 0, 4)

    @pytest.mark.parametrize("background", [False, True])
    def test_a_tap_that_failed_and_left_no_frame_is_told(
        self, host: nn.Module, depth: DepthAttachment, background: bool
    ) -> None:
        adapter = depth._recorder.tower.adapter
        with DepthReader(depth, every=3, background=background) as reader:
            with mock.patch.object(type(adapter), "image_call", side_effect=RuntimeError("no such arguments")):
                see(host, 0)
            assert depth.unread == 0
            with pytest.raises(CaptureError, match="no such arguments"):
                reader.step()
            assert depth.steps == 1

    def test_depth_of_the_size_asked_for(self, host: nn.Module, depth: DepthAttachment) -> None:
        see(host, 0)
        [found] = DepthReader(depth, output_size=(10, 14)).step()
        assert found.depth_m.shape == (1, 10, 14)


class TestBackground:
    def test_the_same_depth_and_its_true_age(self, host: nn.Module, head: DepthHead, depth: DepthAttachment) -> None:
        slow = SlowHead(head)
        with DepthReader(depth, background=True) as reader:
            see(host, 5)
            assert reader.step() == []
            assert reader.latest is None
            assert slow.begun.acquire(timeout=20)
            see(host, 6)
            assert reader.step() == []  # the host is not held up
            slow.go.release(2)
            reader.wait()
            see(host, 7)
            slow.go.release()
            found = reader.step()
            assert [(one.step, one.age) for one in found] == [(0, 2), (1, 1)]
            reader.wait()
            assert reader.latest is not None
            assert (reader.latest.step, reader.latest.age) == (2, 0)
            for _ in range(3):
                reader.step()
            assert reader.latest.age == 3
        slow.go.release(9)
        assert torch.equal(found[0].depth_m, truth(host, head, 5)[0])
        assert torch.equal(found[1].depth_m, truth(host, head, 6)[0])

    @pytest.mark.parametrize("chunk", [1, 4, 50])
    @pytest.mark.parametrize("every", [1, 3, 7, 60])
    def test_the_rhythm_is_that_of_the_foreground(
        self, host: nn.Module, depth: DepthAttachment, chunk: int, every: int
    ) -> None:
        apart = chunk * -(-every // chunk)
        seen, ages = [], []
        with DepthReader(depth, every=every, background=True, output_size=(1, 1)) as reader:
            for step in range(2 * apart + 1):
                if step % chunk == 0:
                    see(host, step)
                reader.step()
                reader.wait()
                assert reader.latest is not None
                seen.append(reader.latest.step)
                ages.append(reader.latest.age)
        assert sorted(set(seen)) == [0, apart, 2 * apart]
        assert ages == [step % apart for step in range(2 * apart + 1)]

    def test_depth_that_was_handed_out_goes_on_growing_older(self, host: nn.Module, depth: DepthAttachment) -> None:
        with DepthReader(depth, background=True) as reader:
            see(host, 0)
            ready = reader.step()
            reader.wait()
            [kept] = [*ready, *reader.step()]
            assert kept.age == 1
            reader.step()
            assert kept.age == 2
            depth.step()
            assert kept.age == 3

    def test_after_a_fault_the_next_step_is_read(self, host: nn.Module, depth: DepthAttachment) -> None:
        with DepthReader(depth, every=9, background=True) as reader:
            with torch.no_grad():
                host(torch.full_like(images(0), torch.nan))
            reader.step()
            reader.wait()
            with pytest.raises(CaptureError):
                reader.step()
            see(host, 3)
            reader.step()
            reader.wait()
            assert [(found.step, found.age) for found in reader.step()] == [(2, 1)]

    def test_the_newest_step_wins(self, host: nn.Module, head: DepthHead, depth: DepthAttachment) -> None:
        slow = SlowHead(head)
        with DepthReader(depth, background=True) as reader:
            see(host, 0)
            reader.step()
            assert slow.begun.acquire(timeout=20)
            for step in range(1, 6):
                see(host, step)
                reader.step()
            slow.go.release(9)
            reader.wait()
            assert [found.step for found in reader.step()] == [0, 5]
        assert slow.calls == 2

    def test_cameras_keep_their_names(self, host: nn.Module, head: DepthHead) -> None:
        names = ["top", "wrist"]
        with attach_depth_head(host, head, cameras=names) as depth, DepthReader(depth, background=True) as reader:
            see(host, 0, 1)
            reader.step()
            reader.wait()
            assert [found.camera for found in reader.step()] == names

    def test_a_fault_is_raised_in_the_hosts_thread_and_the_next_step_works(
        self, host: nn.Module, head: DepthHead, depth: DepthAttachment
    ) -> None:
        with DepthReader(depth, background=True) as reader:
            with torch.no_grad():
                host(torch.full_like(images(0), torch.nan))
            reader.step()
            reader.wait()
            with pytest.raises(CaptureError, match="NaN or infinity"):
                reader.step()
            see(host, 3)
            reader.step()
            reader.wait()
            [found] = reader.step()
        assert torch.equal(found.depth_m, truth(host, head, 3)[0])

    def test_activations_that_are_overwritten_meanwhile_are_noticed(
        self, host: nn.Module, head: DepthHead, depth: DepthAttachment
    ) -> None:
        kept: list[torch.Tensor] = []
        block = next(m for name, m in host.named_modules() if name.endswith("layers.2"))
        block.register_forward_hook(lambda m, a, out: kept.append(out[0] if isinstance(out, tuple) else out))
        slow = SlowHead(head)
        with DepthReader(depth, background=True) as reader:
            see(host, 0)
            reader.step()
            assert slow.begun.acquire(timeout=20)
            kept[0].add_(1.0)  # while the head decodes it
            slow.go.release()
            reader.wait()
            with pytest.raises(CaptureError, match="copy=True"):
                reader.step()

    def test_closing_ends_the_thread_and_leaves_the_attachment(
        self, host: nn.Module, head: DepthHead, depth: DepthAttachment
    ) -> None:
        reader = DepthReader(depth, background=True)
        see(host, 0)
        reader.step()
        reader.close()
        reader.close()
        assert threads() == 0
        with pytest.raises(ConfigError, match="reader is closed"):
            reader.step()
        see(host, 1)
        assert torch.equal(depth.read()[0].depth_m, truth(host, head, 1)[0])

    def test_a_forgotten_reader_takes_its_thread_along(self, depth: DepthAttachment) -> None:
        reader = DepthReader(depth, background=True)
        gone = weakref.ref(reader)
        [worker] = [thread for thread in threading.enumerate() if thread.name == "spaceclip depth"]
        del reader
        gc.collect()
        worker.join(timeout=20)
        assert gone() is None
        assert threads() == 0

    def test_no_activation_outlives_its_decoding(self, host: nn.Module, depth: DepthAttachment) -> None:
        kept: list[weakref.ref[torch.Tensor]] = []
        block = next(m for name, m in host.named_modules() if name.endswith("layers.2"))
        block.register_forward_hook(
            lambda m, a, out: kept.append(weakref.ref((out[0] if isinstance(out, tuple) else out).untyped_storage()))
        )
        with DepthReader(depth, background=True) as reader:
            see(host, 0)
            reader.step()
            reader.wait()
            reader.step()
            gc.collect()
            assert [found() for found in kept] == [None]


class TestSeveralCameras:
    def test_each_has_its_newest_depth_and_age(self, host: nn.Module, head: DepthHead) -> None:
        names = ["top", "left", "wrist"]
        with attach_depth_head(host, head, cameras=names) as depth, DepthReader(depth) as reader:
            assert (reader.latest_of_each, reader.latest_of("left")) == ((), None)
            see(host, 0, 1, 2)
            reader.step()
            depth.given(["left"])
            see(host, 3)
            reader.step()
            each = [(seen.camera, seen.frame, seen.age) for seen in reader.latest_of_each]
            assert each == [("top", 0, 1), ("left", 3, 0), ("wrist", 2, 1)]
            wrist = reader.latest_of("wrist")
            assert wrist is not None
            assert (wrist.frame, wrist.age) == (2, 1)
            reader.step()
            assert [seen.age for seen in reader.latest_of_each] == [2, 1, 2]
            with pytest.raises(ConfigError, match="did you mean 'wrist'"):
                reader.latest_of("wrst")

    def test_without_names_those_of_the_last_step_count_in_order(self, host: nn.Module, head: DepthHead) -> None:
        with attach_depth_head(host, head) as depth, DepthReader(depth, background=True) as reader:
            for seeds in ((0, 1), (2, 3, 4), (), (5,)):
                see(host, *seeds)
                reader.step()
                reader.wait()
                ages = [(seen.frame, seen.age) for seen in reader.latest_of_each]
                wanted = {0: [(0, 0), (1, 0)], 1: [(2, 0), (3, 0), (4, 0)], 2: [(2, 1), (3, 1), (4, 1)], 3: [(5, 0)]}
                assert ages == wanted[depth.steps - 1]
            with pytest.raises(ConfigError, match="attach with cameras="):
                reader.latest_of("top")


@pytest.mark.parametrize("every", [np.int64(3), torch.tensor(3)])
def test_a_rhythm_of_any_integer_type(host: nn.Module, depth: DepthAttachment, every: int) -> None:
    seen = []
    with DepthReader(depth, every=every, output_size=(np.int64(5), torch.tensor(7))) as reader:
        for step in range(5):
            see(host, step)
            seen += [(found.step, tuple(found.depth_m.shape)) for found in reader.step()]
    assert seen == [(0, (1, 5, 7)), (3, (1, 5, 7))]


@pytest.mark.parametrize("every", [0, -1, 1.5, True, None, np.float64(3), np.bool_(True), np.array([3]), "3"])
def test_an_impossible_rhythm(depth: DepthAttachment, every: object) -> None:
    with pytest.raises(ConfigError, match="every must be"):
        DepthReader(depth, every=every)
    assert threads() == 0


def test_an_impossible_size_starts_no_thread(depth: DepthAttachment) -> None:
    with pytest.raises(ConfigError, match="output_size must be"):
        DepthReader(depth, output_size=(0, 3), background=True)
    assert threads() == 0


def test_the_host_is_untouched_by_reading(host: nn.Module, head: DepthHead) -> None:
    with torch.no_grad():
        plain = host(images(0)).pooler_output
    with attach_depth_head(host, head) as depth, DepthReader(depth, background=True) as reader, torch.no_grad():
        for _ in range(5):
            assert torch.equal(host(images(0)).pooler_output, plain)
            reader.step()
    assert hook_count(host) == 0
