"""A host and its head on a GPU: the same bits, the same depth, on any stream, in any precision, wrapped or captured.

Where torch finds no GPU, what does not need one runs on the CPU.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from clip_world import clip_host, images
from fresh_heads import fresh_head
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from spaceclip_plugin import DepthHead, DepthReader, attach_depth_head
from spaceclip_plugin.attach.verification import same_bits

pytestmark = pytest.mark.cuda

HAS_GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda", 0) if HAS_GPU else torch.device("cpu")
needs_gpu = pytest.mark.skipif(not HAS_GPU, reason="torch finds no CUDA device here")
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def placed(dtype: torch.dtype = torch.float32) -> tuple[nn.Module, DepthHead]:
    """A host and a head for it, on the device."""
    host = clip_host()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        head = fresh_head(host).eval()
    return host.to(DEVICE, dtype).requires_grad_(False), head.to(DEVICE)


def batch(seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return images(seed, 2).to(DEVICE, dtype)


def depth_of(host: nn.Module, head: DepthHead, pixels: Tensor) -> Tensor:
    """The depth that the head gives of them in the plainest way there is."""
    with torch.no_grad(), attach_depth_head(host, head) as depth:
        host(pixels)
        [found] = depth.read()
    return found.depth_m


@pytest.fixture
def side_stream() -> Iterator[torch.cuda.Stream]:
    stream = torch.cuda.Stream(DEVICE)
    yield stream
    torch.cuda.synchronize(DEVICE)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("inference", [False, True], ids=["no_grad", "inference_mode"])
def test_the_host_gives_the_same_bits(dtype: torch.dtype, inference: bool) -> None:
    host, head = placed(dtype)
    with torch.inference_mode() if inference else torch.no_grad():
        expected = host(batch(0, dtype)).last_hidden_state
        with attach_depth_head(host, head) as depth:
            output = host(batch(0, dtype)).last_hidden_state
            [found] = depth.read()
            again = host(batch(0, dtype)).last_hidden_state
        after = host(batch(0, dtype)).last_hidden_state
    assert all(same_bits(value, expected) for value in (output, again, after))
    assert found.depth_m.device == DEVICE
    assert found.depth_m.isfinite().all()


@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
def test_autocast_is_the_hosts_alone(dtype: torch.dtype) -> None:
    host, head = placed()

    def mode() -> AbstractContextManager[object]:
        return torch.autocast(DEVICE.type, dtype)

    with torch.no_grad(), mode():
        expected = host(batch(0)).last_hidden_state
    with torch.no_grad(), attach_depth_head(host, head) as depth:
        with mode():
            output = host(batch(0)).last_hidden_state
            host(batch(0))
            [inside] = depth.read()[1:]
        with mode():
            host(batch(0))
        [outside] = depth.read()
    assert same_bits(output, expected)
    assert torch.equal(inside.depth_m, outside.depth_m)


@needs_gpu
def test_the_depth_is_that_of_the_cpu() -> None:
    host, head = placed()
    pixels = batch(0)
    found = depth_of(host, head, pixels)
    expected = depth_of(copy.deepcopy(host).cpu(), copy.deepcopy(head).cpu(), pixels.cpu())
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-2, atol=0)  # cuDNN convolves in TF32


@needs_gpu
@pytest.mark.parametrize("reads_there", [False, True], ids=["read on the default stream", "read on the side stream"])
def test_a_host_on_a_side_stream_is_waited_for(side_stream: torch.cuda.Stream, reads_there: bool) -> None:
    host, head = placed()
    pixels = [batch(seed) for seed in range(8)]
    expected = [depth_of(host, head, each) for each in pixels]
    ballast = torch.randn(4096, 4096, device=DEVICE)
    torch.cuda.synchronize(DEVICE)
    with torch.no_grad(), attach_depth_head(host, head) as depth:
        for each, right in zip(pixels, expected, strict=True):
            with torch.cuda.stream(side_stream):
                for _ in range(8):
                    ballast = ballast @ ballast * 1e-2  # the tower is far behind when its depth is asked for
                host(each)
            with torch.cuda.stream(side_stream) if reads_there else contextlib.nullcontext():
                [found] = depth.read()
                # What the frame held is free by now, but for its stream: who takes it must not overwrite it too early.
                with torch.cuda.stream(side_stream):
                    garbage = [torch.full((2, 17, 32), 1e3, device=DEVICE) for _ in range(64)]
                torch.testing.assert_close(found.depth_m, right, rtol=1e-5, atol=0)
            del garbage


def test_a_thread_of_its_own_hands_out_depth_that_is_done() -> None:
    host, head = placed()
    expected = [depth_of(host, head, batch(seed)) for seed in range(3)]
    with torch.no_grad(), attach_depth_head(host, head) as depth, DepthReader(depth, background=True) as reader:
        for seed, right in enumerate(expected):
            host(batch(seed))
            found = reader.step()
            reader.wait()
            found = [*found, *reader.step()]
            assert torch.equal(found[-1].depth_m, right)


@needs_gpu
def test_the_latest_depth_lives_on_when_the_host_goes_on(side_stream: torch.cuda.Stream) -> None:
    host, head = placed()
    right = depth_of(host, head, batch(0))
    torch.cuda.synchronize(DEVICE)
    with torch.no_grad(), attach_depth_head(host, head) as depth:
        with torch.cuda.stream(side_stream):
            host(batch(0))
        [found] = depth.read()
        for seed in range(1, 5):
            with torch.cuda.stream(side_stream):
                host(batch(seed))
            depth.skip()
        torch.testing.assert_close(found.depth_m, right, rtol=1e-5, atol=0)


def _data_parallel(host: nn.Module) -> nn.Module:
    return nn.DataParallel(host, device_ids=[0] if HAS_GPU else None)


def _ddp(host: nn.Module) -> nn.Module:
    return DistributedDataParallel(host, device_ids=[0] if HAS_GPU else None)


@pytest.fixture
def one_process(tmp_path: Path) -> Iterator[None]:
    backend = "nccl" if HAS_GPU and dist.is_nccl_available() else "gloo"
    dist.init_process_group(backend, init_method=f"file://{tmp_path / 'meeting'}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("one_process")
@pytest.mark.parametrize("wrap", [_data_parallel, _ddp], ids=["DataParallel", "DDP"])
def test_a_wrapped_host_on_one_device_is_read_like_the_plain_one(wrap: type) -> None:
    host, head = placed()
    right = depth_of(host, head, batch(0))
    if wrap is _ddp:
        host.requires_grad_(True)  # DDP takes no module without anything to train
    wrapped = wrap(host)
    with torch.no_grad():
        expected = host(batch(0)).last_hidden_state
        with attach_depth_head(wrapped, head) as depth:
            output = wrapped(batch(0)).last_hidden_state
            [found] = depth.read()
    assert same_bits(output, expected)
    assert torch.equal(found.depth_m, right)


@needs_gpu
@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
def test_a_step_is_captured_with_taps_and_head_inside(dtype: torch.dtype) -> None:
    host, head = placed(dtype)
    pixels = batch(0, dtype)
    with torch.no_grad(), attach_depth_head(host, head) as depth:
        stream = torch.cuda.Stream(DEVICE)
        stream.wait_stream(torch.cuda.current_stream(DEVICE))
        with torch.cuda.stream(stream):
            for _ in range(3):
                host(pixels)
                depth.read()
        torch.cuda.current_stream(DEVICE).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            output = host(pixels).last_hidden_state
            [found] = depth.read()
    for seed in range(1, 4):
        pixels.copy_(batch(seed, dtype))
        graph.replay()
        torch.cuda.synchronize(DEVICE)
        with torch.no_grad():
            assert same_bits(output, host(batch(seed, dtype)).last_hidden_state)
        torch.testing.assert_close(found.depth_m, depth_of(host, head, batch(seed, dtype)), rtol=1e-5, atol=0)


@needs_gpu
def test_a_graph_without_the_head_leaves_the_host_its_bits() -> None:
    host, head = placed()
    pixels = batch(0)
    with torch.no_grad(), attach_depth_head(host, head) as depth:
        host(pixels)
        depth.read()
        torch.cuda.synchronize(DEVICE)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            output = host(pixels).last_hidden_state
        graph.replay()
        torch.cuda.synchronize(DEVICE)
        assert same_bits(output, host(pixels).last_hidden_state)
