"""Attaching and detaching recompile the host alone: every other compiled function of the process keeps its code."""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from clip_world import clip_host, head, host, images
from torch import Tensor, nn

from spaceclip_plugin import DepthHead, attach_depth_head
from spaceclip_plugin.attach import compiled_code

dynamo = pytest.importorskip("torch._dynamo", reason="this torch has no compiler")

__all__ = ["head", "host"]  # fixtures
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # inside the compiler of some torch versions
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]
SPARES = hasattr(dynamo.variables.nn_module, "guard_to_detect_forward_monkeypatching")
spared = pytest.mark.skipif(
    not SPARES,
    reason="this torch (before 2.5) notices no change of one module; everything is compiled again",
)


class Counted:
    """A compiler that counts how often it is called."""

    def __init__(self) -> None:
        self.compilations = 0

    def __call__(self, graph: torch.fx.GraphModule, _examples: list[Tensor]) -> Callable[..., Any]:
        self.compilations += 1
        return graph.forward


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Iterator[None]:
    dynamo.reset()
    dynamo.utils.counters.clear()
    yield
    dynamo.reset()
    dynamo.utils.counters.clear()


def whole(host: nn.Module, backend: Counted) -> Callable[[Tensor], Any]:
    host.compile(backend=backend)
    return host


def blocks(host: nn.Module, backend: Counted) -> Callable[[Tensor], Any]:
    for block in layers(host):
        block.compile(backend=backend)
    return host


def a_function_around(host: nn.Module, backend: Counted) -> Callable[[Tensor], Any]:
    return torch.compile(lambda pixels: host(pixels), backend=backend)


def layers(host: Any) -> nn.ModuleList:
    return getattr(host, "vision_model", host).encoder.layers


def embeddings(host: Any) -> Any:
    return getattr(host, "vision_model", host).embeddings


def come_and_go(host: nn.Module, head: DepthHead, call: Callable[[Tensor], Any]) -> Iterator[str]:
    """Everything an attachment does to a host, a step at a time."""
    depth = attach_depth_head(host, head)
    yield "attached"
    call(images(1))
    assert len(depth.read()) == 1
    yield "read"
    depth.verify(lambda: call(images(1)))
    yield "verified"
    other = attach_depth_head(host, head)
    yield "attached twice"
    call(images(1))
    assert (len(depth.read()), len(other.read())) == (1, 1)
    depth.close()
    yield "one left"
    call(images(1))
    assert (len(depth.read()), len(other.read())) == (0, 1)
    other.close()
    yield "both left"
    call(images(1))
    assert depth.read() == other.read() == []


@spared
@pytest.mark.parametrize("compiled", [whole, blocks, a_function_around])
class TestNeighbours:
    @pytest.mark.slow
    def test_an_unrelated_function_is_compiled_once(
        self, host: nn.Module, head: DepthHead, compiled: Callable[..., Any]
    ) -> None:
        counted = Counted()
        unrelated = torch.compile(lambda x: 2 * x + 1, backend=counted)
        unrelated(torch.ones(3))
        call = compiled(host, Counted())
        with torch.no_grad():
            call(images(1))
            for _ in come_and_go(host, head, call):
                with torch.enable_grad():
                    unrelated(torch.ones(3))
                assert counted.compilations == 1

    @pytest.mark.slow
    @pytest.mark.parametrize("shares_the_backend", [False, True])
    def test_a_module_of_the_class_of_its_blocks_is_compiled_once(
        self, host: nn.Module, head: DepthHead, compiled: Callable[..., Any], shares_the_backend: bool
    ) -> None:
        backend = Counted()
        counted = backend if shares_the_backend else Counted()
        sibling = layers(clip_host())[0]
        others = list(inspect.signature(sibling.forward).parameters.values())[1:]
        required = {p.name: None for p in others if p.default is p.empty and p.kind != p.VAR_KEYWORD}
        sibling.compile(backend=counted)
        tokens = torch.ones(1, 17, 32)
        call = compiled(host, backend)
        with torch.no_grad():
            call(images(1))
            sibling(tokens, **required)
            for _ in come_and_go(host, head, call):
                before = counted.compilations
                sibling(tokens, **required)
                assert counted.compilations == before

    @pytest.mark.slow
    def test_the_code_without_taps_is_taken_up_again(
        self, host: nn.Module, head: DepthHead, compiled: Callable[..., Any]
    ) -> None:
        counted = Counted()
        call = compiled(host, counted)
        with torch.no_grad():
            plain = call(images(1)).last_hidden_state
            with attach_depth_head(host, head) as depth:
                call(images(1))
                assert len(depth.read()) == 1
            call(images(1))  # may compile anew once, for the rest of what the taps cut in two
            settled = counted.compilations
            assert torch.equal(call(images(1)).last_hidden_state, plain)
            assert counted.compilations == settled


@pytest.mark.slow
@pytest.mark.parametrize("compiled", [whole, blocks, a_function_around])
def test_attaching_again_and_again_gives_depth_every_time(
    host: nn.Module, head: DepthHead, compiled: Callable[..., Any]
) -> None:
    counted = Counted()
    call = compiled(host, counted)
    with torch.no_grad():
        with attach_depth_head(host, head) as depth:
            call(images(1))
            [expected] = depth.read()
        for _ in range(12):  # more often than dynamo compiles one function
            with attach_depth_head(host, head) as depth:
                before = counted.compilations
                call(images(1))
                [frame] = depth.read()
                torch.testing.assert_close(frame.depth_m, expected.depth_m, rtol=1e-4, atol=1e-5)
            call(images(1))
    assert not SPARES or counted.compilations - before <= 4


@pytest.mark.slow
@pytest.mark.parametrize("own", ["a bound method", "a partial", "a function"])
def test_an_entry_with_a_forward_of_its_own_keeps_it(host: nn.Module, head: DepthHead, own: str) -> None:
    entry = embeddings(host).patch_embedding
    plain = entry.forward
    forwards = {
        "a bound method": plain,
        "a partial": functools.partial(plain),
        "a function": lambda pixels: plain(pixels),
    }
    entry.forward = forwards[own]
    call = whole(host, Counted())
    with torch.no_grad():
        expected = call(images(1)).last_hidden_state
        with attach_depth_head(host, head) as depth:
            call(images(1))
            assert len(depth.read()) == 1
        torch.testing.assert_close(call(images(1)).last_hidden_state, expected)
        assert depth.read() == []
    if own != "a bound method":  # which is what the class gives
        assert entry.__dict__["forward"] is forwards[own]


@pytest.mark.slow
def test_the_host_is_as_it_was(host: nn.Module, head: DepthHead) -> None:
    before = [set(module.__dict__) for module in host.modules()]
    call = a_function_around(host, Counted())
    with torch.no_grad():
        call(images(1))
        with attach_depth_head(host, head):
            call(images(1))
    assert [set(module.__dict__) for module in host.modules()] == before


def test_an_eager_host_is_not_marked(host: nn.Module, head: DepthHead) -> None:
    before = [set(module.__dict__) for module in host.modules()]
    with attach_depth_head(host, head):
        assert [set(module.__dict__) for module in host.modules()] == before


@pytest.mark.slow
def test_where_one_module_cannot_be_spared_it_is_said(
    host: nn.Module, head: DepthHead, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(compiled_code, "_looks_at_forward", lambda _dynamo: False)
    counted = Counted()
    call = whole(host, counted)
    with torch.no_grad(), caplog.at_level(logging.WARNING):
        call(images(1))
        with attach_depth_head(host, head) as depth:
            assert "compiled again" in caplog.text
            call(images(1))
            assert len(depth.read()) == 1
