"""torch.compile and torch.export: taps on compiled blocks and hosts, attached before and after compiling."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from clip_world import head, hook_count, host, images
from torch import Tensor, nn

from spaceclip_plugin import DepthHead, attach_depth_head
from spaceclip_plugin.attach import UnreadFrames

dynamo = pytest.importorskip("torch._dynamo", reason="this torch has no compiler")

__all__ = ["head", "host"]  # fixtures
# Both backends run without a C++ compiler; "aot_eager" rewrites the graph as the default backend does.
BACKENDS = ["eager", "aot_eager"]
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # inside the compiler of some torch versions
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Iterator[None]:
    dynamo.reset()
    dynamo.utils.counters.clear()
    yield
    dynamo.reset()
    dynamo.utils.counters.clear()


def graphs() -> int:
    return int(dynamo.utils.counters["stats"]["unique_graphs"])


def blocks(host: Any) -> nn.ModuleList:
    return getattr(host, "vision_model", host).encoder.layers


def compile_blocks(host: nn.Module, backend: str) -> nn.Module:
    for block in blocks(host):
        block.compile(backend=backend, fullgraph=True)
    return host


def in_place(host: nn.Module, backend: str = "eager") -> Callable[[Tensor], Any]:
    host.compile(backend=backend)
    return host


def wrapped(host: nn.Module, backend: str = "eager") -> Callable[[Tensor], Any]:
    return torch.compile(host, backend=backend)


def its_forward(host: nn.Module, backend: str = "eager") -> Callable[[Tensor], Any]:
    return torch.compile(host.forward, backend=backend)


def a_function_around(host: nn.Module, backend: str = "eager") -> Callable[[Tensor], Any]:
    return torch.compile(lambda pixels: host(pixels), backend=backend)


WHOLE = [in_place, wrapped, its_forward, a_function_around]


class TestRegional:
    """Blocks compiled one by one, each without a graph break: exact."""

    @pytest.mark.parametrize("backend", BACKENDS)
    @pytest.mark.parametrize("compiled_first", [False, True])
    def test_bits_are_the_same(self, host: nn.Module, head: DepthHead, backend: str, compiled_first: bool) -> None:
        with torch.no_grad():
            with attach_depth_head(host, head) as depth:
                host(images(1))
                [eager] = depth.read()
            if compiled_first:
                compile_blocks(host, backend)
                plain = host(images(1)).last_hidden_state
            with attach_depth_head(host, head) as depth:
                if not compiled_first:
                    compile_blocks(host, backend)
                tapped = host(images(1)).last_hidden_state
                [frame] = depth.read()
            after = host(images(1)).last_hidden_state
        assert torch.equal(tapped, plain if compiled_first else after)
        assert torch.equal(tapped, after)
        torch.testing.assert_close(frame.depth_m, eager.depth_m, rtol=1e-4, atol=1e-5)

    def test_nothing_is_compiled_again_whether_read_or_not(self, host: nn.Module, head: DepthHead) -> None:
        with torch.no_grad(), attach_depth_head(host, head, unread=UnreadFrames(max_frames=4)) as depth:
            compile_blocks(host, "eager")
            host(images(0))
            settled = graphs()
            for seed in range(12):
                host(images(seed))
                if seed < 6:
                    assert len(depth.read()) == (2 if seed == 0 else 1)
            assert graphs() == settled
            assert len(depth.read()) == 4
            assert depth.dropped == 2


class TestWhole:
    """The host compiled as a whole: the graph breaks where a frame starts, and bits may differ; `verify` measures."""

    @pytest.mark.slow
    @pytest.mark.parametrize("backend", BACKENDS)
    @pytest.mark.parametrize("compiled", WHOLE)
    def test_every_call_gives_its_frame(
        self, host: nn.Module, head: DepthHead, compiled: Callable[..., Any], backend: str
    ) -> None:
        with torch.no_grad(), attach_depth_head(host, head) as depth:
            for seed in range(3):
                host(images(seed))
            eager = depth.read()
            call = compiled(host, backend)
            for seed in range(3):
                call(images(seed))
            frames = depth.read()
        assert len(frames) == 3
        for frame, expected in zip(frames, eager, strict=True):
            torch.testing.assert_close(frame.depth_m, expected.depth_m, rtol=1e-4, atol=1e-5)

    @pytest.mark.slow
    def test_calls_settle(self, host: nn.Module, head: DepthHead) -> None:
        with torch.no_grad(), attach_depth_head(host, head) as depth:
            call = wrapped(host)
            for seed in range(3):
                call(images(seed))
            settled = graphs()
            for seed in range(10):
                call(images(seed))
                depth.read() if seed % 2 else depth.step()
            assert graphs() == settled

    @pytest.mark.slow
    @pytest.mark.parametrize("compiled", WHOLE)
    def test_attaching_and_detaching_after_the_first_compiled_call(
        self, host: nn.Module, head: DepthHead, compiled: Callable[..., Any]
    ) -> None:
        hooks = hook_count(host)
        with torch.no_grad():
            call = compiled(host)
            plain = call(images(1)).last_hidden_state
            for _ in range(2):
                with attach_depth_head(host, head) as depth:
                    tapped = call(images(1)).last_hidden_state
                    assert len(depth.read()) == 1
                assert torch.equal(call(images(1)).last_hidden_state, plain)
        torch.testing.assert_close(tapped, plain)
        assert hook_count(host) == hooks

    @pytest.mark.slow
    def test_verify_measures_a_compiled_host(self, host: nn.Module, head: DepthHead) -> None:
        host.compile(backend="aot_eager")
        with attach_depth_head(host, head) as depth:
            report = depth.verify(lambda: host(images(1)))
        assert (report.frames, report.tensors) == (1, 2)
        assert report.max_abs_difference < 1e-4

    def test_one_graph_for_the_whole_host_is_refused_by_the_compiler(self, host: nn.Module, head: DepthHead) -> None:
        with torch.no_grad():
            with attach_depth_head(host, head), pytest.raises(dynamo.exc.Unsupported):
                torch.compile(host, backend="eager", fullgraph=True)(images(1))
            dynamo.reset()
            assert host(images(1)).last_hidden_state.isfinite().all()


class TestExport:
    """An exported program holds no taps, and exporting leaves no frame behind."""

    @pytest.mark.slow
    @pytest.mark.parametrize("strict", [False, True])
    def test_exporting_an_attached_host(self, host: nn.Module, head: DepthHead, strict: bool) -> None:
        if strict and not hasattr(torch.compiler, "is_exporting"):
            pytest.skip("this torch cannot tell a strict export from compiling")
        with torch.no_grad(), attach_depth_head(host, head) as depth:
            program = torch.export.export(host, (images(1),), strict=strict).module()
            assert depth.read() == []
            expected = host(images(1)).last_hidden_state
            assert len(depth.read()) == 1
            torch.testing.assert_close(program(images(1)).last_hidden_state, expected)
            assert depth.read() == []
