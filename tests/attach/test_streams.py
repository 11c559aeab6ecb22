"""What a reader on another CUDA stream waits for, with streams and tensors that only say so: no GPU is needed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from clip_world import head, host, images, see
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from spaceclip_plugin import DepthHead, attach_depth_head
from spaceclip_plugin.attach import decoding, steadying, streams
from spaceclip_plugin.depth import values
from spaceclip_plugin.errors import CaptureError
from spaceclip_plugin.towers import ImageCall, RawFrame

__all__ = ["head", "host"]  # fixtures

GPU, OTHER = torch.device("cuda", 0), torch.device("cuda", 1)


@dataclass(eq=False)
class Stream:
    device: torch.device
    behind: list[Any] = field(default_factory=list)

    def wait_stream(self, other: Stream) -> None:
        self.behind.append(other)

    def synchronize(self) -> None:
        self.behind.append("done")


@dataclass(eq=False)
class OnGpu:
    device: torch.device
    kept_for: list[Stream] = field(default_factory=list)

    def record_stream(self, stream: Stream) -> None:
        self.kept_for.append(stream)


@dataclass
class Gpus:
    here: dict[torch.device, Stream]
    usual: dict[torch.device, Stream]


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> Gpus:
    found = Gpus(*({device: Stream(device) for device in (GPU, OTHER)} for _ in range(2)))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: found.here[device])
    monkeypatch.setattr(torch.cuda, "default_stream", lambda device: found.usual[device])
    return found


def frame(stream: Stream | None, *devices: torch.device) -> tuple[RawFrame, list[OnGpu]]:
    tensors = [OnGpu(device) for device in devices]
    call = ImageCall(batch=1, grid_hw=(2, 2), image_hw=(32, 32))
    return RawFrame(0, call, hidden=dict(enumerate(tensors)), stream=stream), tensors  # type: ignore[arg-type]


def test_a_reader_on_the_towers_stream_waits_for_nothing(gpus: Gpus) -> None:
    seen, [tensor] = frame(gpus.here[GPU], GPU)
    streams.wait_for(seen)
    assert gpus.here[GPU].behind == []
    assert tensor.kept_for == []


def test_a_reader_on_another_stream_goes_behind_the_tower_and_keeps_its_memory(gpus: Gpus) -> None:
    towers = Stream(GPU)
    seen, tensors = frame(towers, GPU, GPU)
    streams.wait_for(seen)
    assert gpus.here[GPU].behind == [towers]
    assert [tensor.kept_for for tensor in tensors] == [[gpus.here[GPU]]] * 2


@pytest.mark.parametrize("known", [None, Stream(OTHER)], ids=["not known", "another GPU's"])
def test_where_the_stream_is_not_known_it_is_the_default_one(gpus: Gpus, known: Stream | None) -> None:
    seen, _ = frame(known, GPU)
    streams.wait_for(seen)
    assert gpus.here[GPU].behind == [gpus.usual[GPU]]


def test_a_tower_on_two_gpus_is_waited_for_on_both(gpus: Gpus) -> None:
    towers = Stream(GPU)
    seen, [first, second] = frame(towers, GPU, OTHER)
    streams.wait_for(seen)
    assert (gpus.here[GPU].behind, gpus.here[OTHER].behind) == ([towers], [gpus.usual[OTHER]])
    assert (first.kept_for, second.kept_for) == ([gpus.here[GPU]], [gpus.here[OTHER]])


def test_what_goes_to_another_thread_is_done(gpus: Gpus) -> None:
    streams.finish(OnGpu(GPU))  # type: ignore[arg-type]
    streams.finish(torch.zeros(1))
    assert gpus.here[GPU].behind == ["done"]


class Questions(TorchDispatchMode):
    """Counts what makes the CPU wait for a device: values that are asked for, and sizes that depend on values."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket._qualified_op_name in (
            "aten::_local_scalar_dense",
            "aten::nonzero",
            "aten::equal",
            "aten::is_nonzero",
        ):
            self.asked.append(str(func))
        return func(*args, **(kwargs or {}))


def set_captured(patch: pytest.MonkeyPatch, captured: bool) -> None:
    for room in (values, decoding, steadying):
        patch.setattr(room, "is_captured", lambda _device: captured)


class TestInsideOfAGraph:
    @pytest.fixture(autouse=True)
    def _captured(self, monkeypatch: pytest.MonkeyPatch) -> None:
        set_captured(monkeypatch, True)

    def test_no_value_is_asked_for_and_the_depth_is_the_same(self, host: nn.Module, head: DepthHead) -> None:
        with attach_depth_head(host, head) as depth:
            see(host, 0)
            with Questions() as questions:
                [found] = depth.read()
        assert questions.asked == []
        with pytest.MonkeyPatch.context() as patch, attach_depth_head(host, head) as depth:
            set_captured(patch, False)
            see(host, 0)
            [expected] = depth.read()
        assert torch.equal(found.depth_m, expected.depth_m)
        assert torch.equal(found.valid, expected.valid)

    def test_steady_depth_says_that_it_cannot(self, host: nn.Module, head: DepthHead) -> None:
        with attach_depth_head(host, head) as depth:
            depth.keep_steady()
            with torch.no_grad():
                host(images(0))
            with pytest.raises(CaptureError, match="not steady there"):
                depth.read()
