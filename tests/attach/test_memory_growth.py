"""What stays alive: a bounded number of unread frames, nothing of what was read, nothing of an attachment that left."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from clip_world import SMALL, clip_host, head, hook_count, host, images, see
from fresh_heads import fresh_head
from torch import Tensor, nn

from spaceclip_plugin import DepthHead, attach_depth_head
from spaceclip_plugin.attach import UnreadFrames
from spaceclip_plugin.errors import CaptureError

__all__ = ["head", "host"]  # fixtures

STEPS = 1000
MIB = 2**20


@pytest.fixture(scope="module", autouse=True)
def _only_what_comes_from_here_on() -> Iterator[None]:
    """Sets the libraries' own objects aside: the collector then looks at few, and none of them comes or goes."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def live_bytes() -> int:
    """Bytes of every storage that a tensor in Python still holds, each counted once: exact on the CPU."""
    gc.collect()
    storages = {}
    for thing in gc.get_objects():
        if type(thing) in (Tensor, nn.Parameter) and thing.device.type == "cpu":
            storage = thing.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def live_things() -> int:
    gc.collect()
    return len(gc.get_objects())


def resident_bytes() -> int:
    statistics = Path("/proc/self/statm")
    if not statistics.exists():
        pytest.skip("only Linux says in /proc how much memory a process holds")
    pages = int(statistics.read_text().split()[1])
    return pages * 4096


def captured(host: nn.Module) -> list[weakref.ref[Tensor]]:
    """Fills with weak references to the storage-holding outputs of the host's modules, as they come."""
    kept: list[weakref.ref[Tensor]] = []

    def keep(_module: nn.Module, _inputs: object, output: object) -> None:
        tensor = output if isinstance(output, Tensor) else output[0]
        kept.append(weakref.ref(tensor.untyped_storage()))

    for module in host.modules():
        if type(module).__name__ in ("CLIPEncoderLayer", "LayerNorm"):
            module.register_forward_hook(keep)
    return kept


class TestNobodyReads:
    def test_a_thousand_steps_hold_no_more_than_the_unread_frames(self, host: nn.Module, head: DepthHead) -> None:
        with attach_depth_head(host, head) as depth:
            see(host, *range(UnreadFrames().max_frames + 1))
            full, things = live_bytes(), live_things()
            for _ in range(4):
                see(host, *range(STEPS // 4))
                assert live_bytes() == full
            assert live_things() <= things + 50  # what pytest, torch and a log keep for themselves
            assert depth.dropped == STEPS + 1
            assert len(depth.features()) == UnreadFrames().max_frames
            assert live_bytes() < full

    def test_steps_with_a_graph_hold_no_more_either(self, host: nn.Module, head: DepthHead) -> None:
        # A frame that held its graph would hold every activation of the host, where no Python object shows it.
        host.train()
        with attach_depth_head(host, head) as depth:
            for seed in range(UnreadFrames().max_frames + 1):
                host(images(seed, 8)).last_hidden_state.sum().backward()
            full, resident = live_bytes(), resident_bytes()
            for seed in range(100):
                host(images(seed, 8)).last_hidden_state.sum().backward()
            assert live_bytes() == full
            assert resident_bytes() < resident + 16 * MIB
            assert not any(value.requires_grad for frame in depth.features() for value in frame.hidden.values())

    def test_the_process_does_not_grow(self, head: DepthHead) -> None:
        host = clip_host()
        with attach_depth_head(host, head, unread=UnreadFrames(max_frames=4)):
            see(host, *[1] * 50, batch=16)
            before = resident_bytes()
            see(host, *[1] * 200, batch=16)
            # Frames that stayed would hold 60 MB: 200 batches of 16 images and three hidden states of each.
            assert resident_bytes() < before + 8 * MIB

    def test_a_bounded_attachment_holds_so_many_frames_and_no_more(self, host: nn.Module, head: DepthHead) -> None:
        held = []
        for bound in (1, 2, 3):
            plain = live_bytes()
            with attach_depth_head(host, head, unread=UnreadFrames(max_frames=bound)):
                see(host, *range(10))
                held.append(live_bytes() - plain)
        one = 4 * (3 * 17 * 32 + 32 + 3 * 32 * 32)  # three hidden states, a context and the image, float32
        assert held == [one, 2 * one, 3 * one]


class TestSomebodyReads:
    @pytest.mark.parametrize("reading", ["read", "features"])
    def test_what_was_read_is_released(self, host: nn.Module, head: DepthHead, reading: str) -> None:
        kept = captured(host)
        with attach_depth_head(host, head) as depth:
            see(host, 1, 2)
            gc.collect()
            assert sum(ref() is not None for ref in kept) >= 2 * 4  # of either image: three hidden states, a context
            getattr(depth, reading)()
            gc.collect()
            assert [ref() for ref in kept if ref() is not None] == []

    def test_a_thousand_steps_hold_one_depth(self, host: nn.Module, head: DepthHead) -> None:
        with attach_depth_head(host, head) as depth:
            see(host, 1)
            depth.read((8, 8))
            full = live_bytes()
            for seed in range(STEPS // 4):
                see(host, seed)
                depth.read((8, 8))
            assert live_bytes() == full

    def test_frames_that_could_not_be_read_are_released(self, host: nn.Module, head: DepthHead) -> None:
        kept = captured(host)
        with attach_depth_head(host, head) as depth, torch.no_grad():
            host(torch.full((1, 3, 32, 32), float("nan")))
            with pytest.raises(CaptureError, match="NaN"):
                depth.read()
            gc.collect()
            assert [ref() for ref in kept if ref() is not None] == []

    def test_verify_keeps_nothing(self, host: nn.Module, head: DepthHead) -> None:
        with attach_depth_head(host, head) as depth:
            see(host, 1)
            depth.verify(lambda: host(images(2)))
            before, hooks = live_bytes(), hook_count(host)
            for _ in range(20):
                depth.verify(lambda: host(images(2)))
            assert live_bytes() == before
            assert hook_count(host) == hooks


class TestLeaving:
    def test_detaching_releases_every_frame(self, host: nn.Module, head: DepthHead) -> None:
        before, kept = live_bytes(), captured(host)
        depth = attach_depth_head(host, head)
        see(host, 1, 2, 3)
        assert live_bytes() > before
        depth.close()
        assert [ref() for ref in kept if ref() is not None] == []
        assert live_bytes() == before

    def test_detaching_in_the_middle_of_a_call_releases_what_came_before(
        self, host: nn.Module, head: DepthHead
    ) -> None:
        kept, depth = captured(host), attach_depth_head(host, head)
        first = next(module for module in host.modules() if type(module).__name__ == "CLIPEncoderLayer")
        first.register_forward_hook(lambda *_call: depth.close())
        see(host, 1)
        gc.collect()
        assert [ref() for ref in kept if ref() is not None] == []
        assert depth.read() == []

    def test_an_attachment_that_was_detached_can_be_collected(self, host: nn.Module, head: DepthHead) -> None:
        depth = attach_depth_head(host, head)
        see(host, 1)
        depth.read()
        depth.close()
        gone = weakref.ref(depth)
        del depth
        assert gone() is None  # at once: it is in no cycle that holds depth maps until the collector comes by

    def test_a_forgotten_attachment_releases_frames_head_and_hooks(self, host: nn.Module) -> None:
        hooks, before, kept = hook_count(host), live_bytes(), captured(host)
        own = hook_count(host)
        depth = attach_depth_head(host, fresh_head(host, **SMALL))
        see(host, 1, 2)
        gone = [weakref.ref(depth), weakref.ref(depth.head)]
        del depth
        gc.collect()
        assert [ref() for ref in (*gone, *kept) if ref() is not None] == []
        assert hook_count(host) == own > hooks
        assert live_bytes() == before

    def test_the_host_and_the_head_can_be_collected_once_left(self) -> None:
        host = clip_host()
        head = fresh_head(host, **SMALL)
        with attach_depth_head(host, head) as depth:
            see(host, 1)
            depth.read()
        gone = [weakref.ref(host), weakref.ref(head)]
        del host, head, depth
        gc.collect()
        assert [ref() for ref in gone if ref() is not None] == []

    def test_a_hundred_attachments_hold_nothing(self, host: nn.Module, head: DepthHead) -> None:
        for _ in range(2):
            with attach_depth_head(host, head) as depth:
                see(host, 1)
        before, things = live_bytes(), live_things()
        for _ in range(100):
            with attach_depth_head(host, head) as depth:
                see(host, 1)
        del depth
        assert live_bytes() <= before
        assert live_things() <= things + 50

    def test_threads_that_end_leave_nothing(self, host: nn.Module, head: DepthHead) -> None:
        with attach_depth_head(host, head, unread=UnreadFrames(max_frames=2)):
            see(host, 1, 2, 3)
            before, things = live_bytes(), live_things()
            for _ in range(100):
                thread = threading.Thread(target=see, args=(host, 1))
                thread.start()
                thread.join()
            assert live_bytes() == before
            assert live_things() <= things + 50
