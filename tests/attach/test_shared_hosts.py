"""Hosts that are copied, saved, traced, run by several threads, or carry hooks of other people."""

from __future__ import annotations

import copy
import io
import pickle
import threading
from collections import Counter
from collections.abc import Callable

import pytest
import torch
from clip_world import SMALL, clip_host, head, hook_count, host, images, see
from fresh_heads import fresh_head
from torch import Tensor, nn

from spaceclip_plugin import DepthAttachment, DepthHead, DepthMap, attach_depth_head
from spaceclip_plugin.attach import UnreadFrames
from spaceclip_plugin.attach.verification import same_bits

__all__ = ["head", "host"]  # fixtures


def through_a_file(host: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(host, file)
    file.seek(0)
    loaded: nn.Module = torch.load(file, weights_only=False)  # a file of our own, made one line above
    return loaded


COPIES: dict[str, Callable[[nn.Module], nn.Module]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda host: pickle.loads(pickle.dumps(host)),
    "torch.save": through_a_file,
}


@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
class TestCopies:
    def test_the_copy_runs_and_the_original_records(
        self, host: nn.Module, head: DepthHead, copied: Callable[[nn.Module], nn.Module]
    ) -> None:
        with attach_depth_head(host, head) as depth, torch.no_grad():
            see(host, 1)
            twin = copied(host)
            assert same_bits(twin(images(2)).last_hidden_state, host(images(2)).last_hidden_state)
            see(twin, 3, 4)
            assert [frame.frame for frame in depth.read()] == [0, 1]
            see(twin, 5)
            assert depth.read() == []

    def test_the_copy_outlives_the_attachment(
        self, host: nn.Module, head: DepthHead, copied: Callable[[nn.Module], nn.Module]
    ) -> None:
        with attach_depth_head(host, head):
            twin = copied(host)
        see(host, 1)
        with torch.no_grad():
            assert same_bits(twin(images(1)).last_hidden_state, host(images(1)).last_hidden_state)

    def test_the_copy_can_have_a_head_of_its_own(
        self, host: nn.Module, head: DepthHead, copied: Callable[[nn.Module], nn.Module]
    ) -> None:
        with attach_depth_head(host, head) as depth:
            twin = copied(host)
            with attach_depth_head(twin, head) as other:
                see(twin, 1)
                assert depth.read() == []
                [of_copy] = other.read()
                see(host, 1)
                [of_original] = depth.read()
                assert other.read() == []
        assert same_bits(of_copy.depth_m, of_original.depth_m)


def test_the_state_dict_of_a_host_with_taps_loads_into_one_without(host: nn.Module, head: DepthHead) -> None:
    file = io.BytesIO()
    with attach_depth_head(host, head):
        torch.save(host.state_dict(), file)
    file.seek(0)
    twin = clip_host()
    twin.load_state_dict(torch.load(file, weights_only=True), strict=True)


class Traceable(nn.Module):
    """A host that returns tensors alone, as tracing wants it."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = clip_host()

    def forward(self, pixels: Tensor) -> Tensor:
        output: Tensor = self.inner(pixels).last_hidden_state
        return output


# Newer versions of torch want torch.export; the tracer touches every property of the host, also those on their way out,
# and warns of the host's own checks of sizes.
@pytest.mark.filterwarnings("ignore:.*deprecated:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
class TestTracing:
    @staticmethod
    def trace(host: nn.Module) -> torch.jit.ScriptModule:
        with torch.no_grad():
            traced: torch.jit.ScriptModule = torch.jit.trace(host, images(1), check_trace=False)
        return traced

    def test_a_trace_is_made_and_run_without_frames(self, head: DepthHead) -> None:
        host = Traceable().eval()
        with attach_depth_head(host, head) as depth, torch.no_grad():
            traced = self.trace(host)
            assert depth.read() == []  # sizes are no numbers while tracing: nothing to make depth of
            output = traced(images(2))
            assert depth.read() == []
            assert same_bits(output, host(images(2)))
            [frame] = depth.read()
            depth.refresh(images(2))
            assert same_bits(frame.depth_m, depth.read()[0].depth_m)

    def test_the_taps_leave_nothing_in_the_trace(self, head: DepthHead) -> None:
        host, plain = Traceable().eval(), Traceable().eval()
        with attach_depth_head(host, head):
            traced = self.trace(host)
        kinds, expected = (
            Counter(node.kind() for node in graph.inlined_graph.nodes()) for graph in (traced, self.trace(plain))
        )
        assert kinds == expected


class TestThreads:
    @staticmethod
    def run_all(*targets: Callable[[], None]) -> None:
        errors: list[BaseException] = []

        def guarded(target: Callable[[], None]) -> None:
            try:
                target()
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=guarded, args=(target,)) for target in targets]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert not errors

    def test_no_frame_mixes_two_threads(self, host: nn.Module, head: DepthHead) -> None:
        threads, calls = 4, 30
        constant = [torch.full((1, 3, 32, 32), float(shade)) for shade in range(threads)]
        with attach_depth_head(host, head, unread=UnreadFrames(max_frames=threads * calls)) as depth, torch.no_grad():
            for image in constant:
                host(image)
            expected = depth.read()
            together = threading.Barrier(threads)

            def looking_at(image: Tensor) -> Callable[[], None]:
                def run() -> None:
                    together.wait()
                    with torch.no_grad():
                        for _ in range(calls):
                            host(image)

                return run

            self.run_all(*(looking_at(image) for image in constant))
            frames = depth.read()
        matches = [[same_bits(frame.depth_m, other.depth_m) for other in expected] for frame in frames]
        assert all(sum(row) == 1 for row in matches)  # each is exactly one thread's
        assert [sum(column) for column in zip(*matches, strict=True)] == [calls] * threads
        assert sorted(frame.frame for frame in frames) == list(range(threads, threads + threads * calls))

    def test_two_hosts_in_two_threads_keep_to_themselves(self, head: DepthHead) -> None:
        hosts = [clip_host(), clip_host()]
        seen: dict[int, list[DepthMap]] = {0: [], 1: []}
        attachments = [attach_depth_head(host, head) for host in hosts]

        def drive(number: int) -> Callable[[], None]:
            def run() -> None:
                for _ in range(20):
                    see(hosts[number], number)
                    seen[number] += attachments[number].read()

            return run

        self.run_all(drive(0), drive(1))
        for number, frames in seen.items():
            see(hosts[number], number)
            [expected] = attachments[number].read()
            assert [frame.frame for frame in frames] == list(range(20))
            assert all(same_bits(frame.depth_m, expected.depth_m) for frame in frames)
        for attachment in attachments:
            attachment.close()


class TestTwoAttachments:
    @staticmethod
    def other_head(host: nn.Module) -> DepthHead:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(2)
            return fresh_head(host, **{**SMALL, "semantic_taps": (2, 1)}).eval()

    @staticmethod
    def alone(head: DepthHead, *seeds: int) -> list[Tensor]:
        host = clip_host()
        with attach_depth_head(host, head) as depth:
            see(host, *seeds)
            return [frame.depth_m for frame in depth.read()]

    @staticmethod
    def same(attachment: DepthAttachment, expected: list[Tensor]) -> bool:
        frames = attachment.read()
        return len(frames) == len(expected) and all(
            same_bits(frame.depth_m, depth_m) for frame, depth_m in zip(frames, expected, strict=True)
        )

    @pytest.mark.parametrize("first_to_leave", [0, 1], ids=["the older leaves first", "the newer leaves first"])
    def test_each_reads_its_own_depth_and_leaves_alone(
        self, host: nn.Module, head: DepthHead, first_to_leave: int
    ) -> None:
        see(host, 9)
        before, heads = hook_count(host), [head, self.other_head(host)]
        attachments = [attach_depth_head(host, each) for each in heads]
        see(host, 1, 2)
        for attachment, each in zip(attachments, heads, strict=True):
            assert self.same(attachment, self.alone(each, 1, 2))
        see(host, 3)
        stays = 1 - first_to_leave
        attachments[first_to_leave].close()
        see(host, 4)
        assert attachments[first_to_leave].read() == []
        assert self.same(attachments[stays], self.alone(heads[stays], 3, 4))
        attachments[stays].close()
        assert hook_count(host) == before

    def test_one_head_can_be_attached_twice(self, host: nn.Module, head: DepthHead) -> None:
        with attach_depth_head(host, head) as outer:
            with attach_depth_head(host, head) as inner:
                see(host, 1)
                assert self.same(inner, self.alone(head, 1))
            see(host, 2)
            assert self.same(outer, self.alone(head, 1, 2))

    def test_verifying_one_gives_the_other_its_frames_back(self, host: nn.Module, head: DepthHead) -> None:
        with attach_depth_head(host, head) as first, attach_depth_head(host, self.other_head(host)) as second:
            see(host, 1)
            assert second.verify(lambda: host(images(2))).identical
            assert self.same(second, self.alone(second.head, 1))
            assert self.same(first, self.alone(head, 1, 2, 2))  # to the first, these were calls like any other
            see(host, 3)
            assert self.same(second, self.alone(second.head, 3))


class TestHooksOfTheUser:
    @staticmethod
    def register(host: nn.Module, log: list[str]) -> None:
        """Hooks of both kinds on every module, before and after those that are there."""
        for name, module in host.named_modules():
            for place in ("first", "last"):
                for kind, register in (
                    ("before", module.register_forward_pre_hook),
                    ("after", module.register_forward_hook),
                ):
                    said = f"{kind} {name}, {place}, registration {len(log)}"
                    log.append(said)
                    register(lambda *_call, said=said: log.append(said), prepend=place == "first")

    def firing(self, host: nn.Module, between: Callable[[], object]) -> tuple[list[str], list[str]]:
        """A log that the hooks write to, and its contents after one call; something is done between registrations."""
        log: list[str] = []
        self.register(host, log)
        between()
        self.register(host, log)
        return log, self.call(host, log)

    @staticmethod
    def call(host: nn.Module, log: list[str]) -> list[str]:
        log.clear()
        see(host, 1)
        return list(log)

    def test_they_fire_in_the_same_order_and_stay(self, head: DepthHead) -> None:
        plain, host = clip_host(), clip_host()
        _, expected = self.firing(plain, lambda: None)
        attached: list[DepthAttachment] = []
        log, order = self.firing(host, lambda: attached.append(attach_depth_head(host, head)))
        assert order == expected
        [depth] = attached
        assert depth.verify(lambda: host(images(1))).identical
        assert self.call(host, log) == expected
        assert hook_count(host) > hook_count(plain)
        depth.close()
        assert self.call(host, log) == expected
        assert hook_count(host) == hook_count(plain)

    def test_what_they_make_of_an_activation_is_what_the_taps_see(self, host: nn.Module, head: DepthHead) -> None:
        first, second, *_ = (m for m in host.modules() if type(m).__name__ == "CLIPEncoderLayer")
        received: list[Tensor] = []

        def doubled(_module: nn.Module, _inputs: object, output: object) -> object:
            return 2 * output if isinstance(output, Tensor) else (2 * output[0], *output[1:])

        def kept(_module: nn.Module, inputs: tuple[Tensor, ...], named: dict[str, Tensor]) -> None:
            received.append(inputs[0] if inputs else named["hidden_states"])

        first.register_forward_hook(doubled)
        second.register_forward_pre_hook(kept, with_kwargs=True)
        with attach_depth_head(host, head) as depth, torch.no_grad():
            host(images(1))
            [features] = depth.features()
        shown = features.hidden[1].flatten(2).transpose(1, 2)
        assert torch.equal(shown, received[0][:, 1:])
