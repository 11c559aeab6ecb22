"""Depth every k-th step and in the background: the same depth, with its true age, and nothing lost or left behind."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Iterator

import pytest
import torch
from clip_world import head, hook_count, host, images, see
from torch import nn

from spaceclip_plugin import DepthHead, DepthReader, attach_depth_head
from spaceclip_plugin.attachment import DepthAttachment
from spaceclip_plugin.errors import CaptureError, ConfigError

__all__ = ["head", "host"]  # fixtures


@pytest.fixture
def depth(host: nn.Module, head: DepthHead) -> Iterator[DepthAttachment]:
    with attach_depth_head(host, head) as attachment:
        yield attachment


def truth(host: nn.Module, head: DepthHead, *seeds: int) -> list[torch.Tensor]:
    with attach_depth_head(host, head) as attachment:
        see(host, *seeds)
        return [found.depth_m for found in attachment.read()]


class SlowHead:
    """Counts the calls of a head and holds each until it is let go."""

    def __init__(self, head: DepthHead) -> None:
        self.calls = 0
        self.begun = threading.Semaphore(0)
        self.go = threading.Semaphore(0)
        head.register_forward_pre_hook(self._called)

    def _called(self, module: nn.Module, args: object) -> None:
        self.calls += 1
        self.begun.release()
        if not self.go.acquire(timeout=20):
            raise TimeoutError


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

    def test_steps_without_an_image_do_not_count(self, host: nn.Module, depth: DepthAttachment) -> None:
        """A policy that queues four actions runs its tower at steps 0, 4, 8, …: none of them may be missed for ever."""
        seen = []
        with DepthReader(depth, every=3) as reader:
            for step in range(28):
                if step % 4 == 0:
                    see(host, step)
                seen += [found.step for found in reader.step()]
        assert seen == [0, 12, 24]

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
        with attach_depth_head(host, head, views=names) as depth, DepthReader(depth, background=True) as reader:
            see(host, 0, 1)
            reader.step()
            reader.wait()
            assert [found.view for found in reader.step()] == names

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


@pytest.mark.parametrize("every", [0, -1, 1.5, True, None])
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
