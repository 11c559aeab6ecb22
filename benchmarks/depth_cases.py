"""What `depth_cost.py` runs: hosts, heads in every form and the other depth model, as cases; and their sizes."""

from __future__ import annotations

import copy
import dataclasses
import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode
from turns import IMAGES, Case

from spaceclip_plugin import DepthHead, attach_depth_head
from spaceclip_plugin.attach import UnreadFrames
from spaceclip_plugin.bridges.onnx import export_onnx
from spaceclip_plugin.bridges.onnx.comparison import OUTPUT, named_inputs
from spaceclip_plugin.errors import ExportError
from spaceclip_plugin.head.architectures import ARCHITECTURES, DEFAULT_ARCHITECTURE
from spaceclip_plugin.towers.spec import TowerFeatures

HOST, HOOKS = "host", "host + hooks"
PLAIN, FUSED, ONNX = "plain", "fused", "ONNX Runtime"
COMPILED, GRAPHED = "compiled", "CUDA graph"
SELDOM = 4
"""The slowest case runs in every fourth round."""
ALLOWED = 1e-3
"""Largest difference that float32 accounts for, in standard deviations of the output."""


class LeftOutError(Exception):
    """Why a case cannot run here."""


@dataclass(frozen=True)
class World:
    """A host and the depth model it is compared with, both with random weights.

    Attributes:
        name: what the host is, for people.
        host: builds it.
        side: of its images, in pixels.
        rival, rival_name: builds the other depth model; what it is called.
        rival_sides: of its images; the last is the published one.
    """

    name: str
    host: Callable[[], nn.Module]
    side: int
    rival: Callable[[], nn.Module]
    rival_name: str = "Depth Anything V2 Small"
    rival_sides: tuple[int, ...] = (224, 518)


class Stage:
    """The models of a world on one device, ready to run without gradients, and what heads read of the host.

    Heads are attached here, to twins of the host that stay attached: attaching makes the compiler forget all it did.
    """

    def __init__(self, world: World, device: str) -> None:
        self.world = world
        self.device = torch.device(device)
        self.dtype = torch.bfloat16 if self.device.type == "cuda" else torch.float32
        torch.manual_seed(0)
        self.host = self._placed(world.host())
        self.rival = self._placed(world.rival())
        self.pixels = self.images(world.side)
        self.heads = {name: self._placed(DepthHead.for_tower(self.host, architecture=name)) for name in ARCHITECTURES}
        self.fused = {name: head.fuse() for name, head in self.heads.items() if ARCHITECTURES[name].fused}
        self.hosts = {name: Attached(self.host, head) for name, head in self.heads.items()}
        self.hosts |= {f"{name} {FUSED}": Attached(self.host, head) for name, head in self.fused.items()}
        self.unread = Attached(self.host, self.heads[DEFAULT_ARCHITECTURE])
        self.features = {name: [host.features(pixels) for pixels in self.pixels] for name, host in self.hosts.items()}

    def images(self, side: int) -> list[Tensor]:
        """Normal noise."""
        return [torch.randn(1, 3, side, side).to(self.device, self.dtype) for _ in range(IMAGES)]

    def _placed(self, model: nn.Module) -> nn.Module:
        return model.eval().requires_grad_(False).to(self.device, self.dtype)


class Attached:
    """A twin of the host, of modules of its own around the same weights, with a head attached."""

    def __init__(self, host: nn.Module, head: DepthHead) -> None:
        shared = itertools.chain(host.parameters(), host.buffers())
        self.host = copy.deepcopy(host, {id(value): value for value in shared})
        self.depth = attach_depth_head(self.host, head, unread=UnreadFrames(max_frames=1))

    def unread(self, pixels: Tensor) -> Tensor:
        """What the host gives; its features stay unread."""
        return result(self.host(pixels))

    def read(self, pixels: Tensor) -> Tensor:
        """Depth in metres."""
        self.host(pixels)
        return self.depth.read()[0].depth_m

    def features(self, pixels: Tensor) -> TowerFeatures:
        """What the head reads, as the host leaves it in memory."""
        with torch.no_grad():
            self.host(pixels)
        return self.depth.features()[0]


def result(output: Any) -> Tensor:
    """The tensor among what a model or a head gives."""
    for name in ("depth_m", "predicted_depth", "last_hidden_state"):
        if (value := getattr(output, name, None)) is not None:
            return value
    return output


def simple(name: str, model: Callable[[Any], Any], inputs: Sequence[Any], *, every: int = 1) -> Case:
    """A model called on one of its inputs."""
    return Case(name, lambda which: result(model(inputs[which])), every)


def compiled(name: str, head: DepthHead, features: Sequence[TowerFeatures]) -> Case:
    """The head through `torch.compile`, as a user would call it."""
    return simple(name, torch.compile(head), features)


def onnx(name: str, head: DepthHead, features: Sequence[TowerFeatures], folder: Path) -> Case:
    """The exported head; laying the tower's tokens out as the file wants them is part of a run."""
    try:
        path = export_onnx(head, folder / "head.onnx", output_hw=features[0].image_hw).path
    except ExportError as error:
        raise LeftOutError(str(error)) from error
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = torch.get_num_threads(), 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def step(which: int) -> Tensor:
        inputs = {key: value.numpy() for key, value in named_inputs(features[which]).items()}
        return torch.from_numpy(session.run([OUTPUT], inputs)[0])

    return Case(name, step)


@torch.no_grad()
def graphed(name: str, model: Callable[[Any], Any], inputs: Sequence[Any]) -> Case:
    """The model as a CUDA graph; copying an input to where the graph reads is part of a run."""
    static = _copied(inputs[0])
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            model(static)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = result(model(static))

    def step(which: int) -> Tensor:
        for place, value in zip(_tensors(static), _tensors(inputs[which]), strict=True):
            place.copy_(value)
        graph.replay()
        return output

    return Case(name, step)


def _tensors(value: Tensor | TowerFeatures) -> list[Tensor]:
    return [value] if isinstance(value, Tensor) else list(named_inputs(value).values())


def _copied(value: Tensor | TowerFeatures) -> Tensor | TowerFeatures:
    if isinstance(value, Tensor):
        return value.clone()
    hidden = {tap: part.clone() for tap, part in value.hidden.items()}
    context, pixels = (None if part is None else part.clone() for part in (value.context, value.pixels))
    return dataclasses.replace(value, hidden=hidden, context=context, pixels=pixels)


def all_cases(stage: Stage, folder: Path, *, compiling: bool, exporting: bool) -> tuple[list[Case], dict[str, str]]:
    """Every case that runs here, each warm, and why the others do not."""
    makers: dict[str, Callable[[], Case]] = {}

    def add(name: str, maker: Callable[..., Case], *args: Any, **kwargs: Any) -> None:
        makers[name] = lambda: maker(name, *args, **kwargs)

    gpu = stage.device.type == "cuda"
    add(HOST, simple, stage.host, stage.pixels)
    if gpu:
        add(f"{HOST} {GRAPHED}", graphed, stage.host, stage.pixels)
    add(HOOKS, simple, stage.unread.unread, stage.pixels)
    for name, host in stage.hosts.items():
        add(f"{HOST} + {name}", simple, host.read, stage.pixels)
    for name, head in stage.heads.items():
        features = stage.features[name]
        for form, one in ((PLAIN, head), (FUSED, stage.fused.get(name))):
            if one is None:
                continue
            add(f"{name} {form}", simple, one, features)
            if compiling:
                add(f"{name} {form} {COMPILED}", compiled, one, features)
            if gpu:
                add(f"{name} {form} {GRAPHED}", graphed, one, features)
        if exporting:
            # A folder for each: the session may read its file as long as it lives.
            (place := folder / name).mkdir()
            add(f"{name} {ONNX}", onnx, head, features, place)
    for number, side in enumerate(stage.world.rival_sides):
        every = SELDOM if number else 1
        add(f"{stage.world.rival_name} @{side}", simple, stage.rival, stage.images(side), every=every)
    ready, left_out = [], {}
    for name, make in makers.items():
        try:
            case = make()
            outputs(case)
            ready.append(case)
        except LeftOutError as error:
            left_out[name] = str(error)
        except RuntimeError as error:
            if not name.endswith((COMPILED, GRAPHED)):
                raise
            left_out[name] = type(error).__name__  # what a compiler says names files of this machine
    return ready, left_out


def outputs(case: Case) -> list[Tensor]:
    """What it gives for every image."""
    with torch.no_grad():
        return [case.step(which).float().cpu().clone() for which in range(IMAGES)]


def families(names: Sequence[str], heads: Iterable[str]) -> dict[str, list[str]]:
    """Cases that compute the same, by the one that is right: the host as it is, and every plain head."""
    found = {HOST: [name for name in names if name in (HOOKS, f"{HOST} {GRAPHED}")]}
    for head in heads:
        plain = f"{head} {PLAIN}"
        forms = [name for name in names if name.startswith(f"{head} ") and name != plain]
        found[plain] = [name for name in names if name in (f"{HOST} + {head}", f"{HOST} + {head} {FUSED}")] + forms
    return found


def differences(cases: Sequence[Case], heads: Iterable[str], *, exact: bool) -> dict[str, float]:
    """Of every case to the right one of its family: the largest for any image, in standard deviations of the output.

    Raises:
        RuntimeError: a case computes something else, if `exact`; or images that differ give what is alike.
    """
    by_name = {case.name: case for case in cases}
    found = {}
    for right, others in families(list(by_name), heads).items():
        expected = outputs(by_name[right])
        deviation = min(one.std().item() for one in expected)
        if (expected[0] - expected[1]).abs().max().item() <= 0.1 * deviation:
            raise RuntimeError(f"{right!r} gives the same for all images: a wrong form could not be told")
        for name in others:
            pairs = zip(outputs(by_name[name]), expected, strict=True)
            found[name] = max((a - b).abs().max().item() for a, b in pairs) / deviation
            if exact and found[name] > ALLOWED:
                raise RuntimeError(f"{name!r} differs from {right!r} by {found[name]:.2g} of its standard deviation")
    return found


def sizes(stage: Stage) -> dict[str, dict[str, float]]:
    """Parameters, operations and extra memory of everything that eager torch runs."""
    found = {HOST: size_of(stage.host, stage.pixels[0])}
    for name, head in stage.heads.items():
        features = stage.features[name][0]
        found[f"{name} {PLAIN}"] = size_of(head, features)
        if name in stage.fused:
            found[f"{name} {FUSED}"] = size_of(stage.fused[name], features)
    for side in stage.world.rival_sides:
        found[f"{stage.world.rival_name} @{side}"] = size_of(stage.rival, stage.images(side)[0])
    return found


def size_of(model: nn.Module, given: Any) -> dict[str, float]:
    """Parameters, operations, extra memory. Operations are 2 per multiplication of convolutions, matrix products and
    attention; others are not counted.
    """
    with torch.no_grad():
        with FlopCounterMode(display=False) as counter:
            model(given)
        peak = peak_bytes(lambda: model(given), next(model.parameters()).device)
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "gflop": round(counter.get_total_flops() / 1e9, 3),
        "peak_mb": round(peak / 1e6, 2),
    }


def peak_bytes(run: Callable[[], object], device: torch.device) -> int:
    """The most memory that was held at a time beyond what was before, the result included."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    # The allocator's own log also has what lives and dies inside one operator.
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as log:
        run()
    held = peak = 0
    for event in log.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak
