"""What `gpu_check.py` looks at, part by part; each returns its figures, and says by SkippedError why it has none."""

from __future__ import annotations

import argparse
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from attached import Attached
from model_size import peak_bytes
from nyu_heads import HOST, TRAIN, VAL, call
from sized_hosts import SMOLVLA, TINY, PolicySize, StandIn, clip_vit_b16, small_clip
from torch import Tensor, nn
from training_cost import NoiseSamples, from_cache, timed_steps, ways
from turns import IMAGES, Case, spread, timed

from spaceclip_plugin import DepthHead, attach_depth_head
from spaceclip_plugin.attach.verification import same_bits
from spaceclip_plugin.head.architectures import DEFAULT_ARCHITECTURE
from spaceclip_plugin.training import Recipe

Model = TypeVar("Model", bound=nn.Module)
TESTS = Path(__file__).resolve().parents[1] / "tests"
CAMERAS = (1, 2, 3)
BATCHES = (1, 8)


class SkippedError(Exception):
    """Why a part has no figures here."""


@dataclass(frozen=True)
class Scale:
    """How large things are: as users have them on a GPU, small on a CPU, where only the program is tried.

    Attributes:
        device, dtype: of hosts.
        host: builds the tower that everything is measured on.
        side: of its images, in pixels.
        policy: of what sizes a whole policy is.
        rounds: in which all cases take turns.
        images: that are cached and trained on.
    """

    device: torch.device
    dtype: torch.dtype
    host: Callable[[], nn.Module]
    side: int
    policy: PolicySize
    rounds: int
    images: int

    @classmethod
    def of(cls, device: str) -> Scale:
        """That of a device."""
        if device == "cuda":
            return cls(torch.device(device), torch.bfloat16, clip_vit_b16, 224, SMOLVLA, rounds=40, images=64)
        return cls(torch.device(device), torch.float32, small_clip, 64, TINY, rounds=2, images=8)

    def placed(self, model: Model) -> Model:
        """In eval mode, frozen, on the device and in the precision."""
        return model.eval().requires_grad_(False).to(self.device, self.dtype)

    def pixels(self, batch: int = 1, side: int | None = None) -> Tensor:
        """Normal noise, (batch, 3, side, side)."""
        side = side or self.side
        return torch.randn(batch, 3, side, side).to(self.device, self.dtype)

    def head(self, host: nn.Module) -> DepthHead:
        """The default head with random weights, on the device, in the host's precision."""
        return self.placed(DepthHead.for_tower(host, trained_on="nothing: random weights, for timing"))


def tests(_scale: Scale, _args: argparse.Namespace) -> dict[str, Any]:
    """The suite's tests for GPUs: host bits, streams, wrappers, precisions, graphs."""
    words = [
        sys.executable,
        "-m",
        "pytest",
        "-o",
        "addopts=--strict-markers",
        "-q",
        "-m",
        "cuda",
        "-p",
        "no:cacheprovider",
    ]
    done = subprocess.run([*words, str(TESTS / "attach")], capture_output=True, text=True, check=False)
    last = done.stdout.strip().splitlines()[-1] if done.stdout.strip() else ""
    counts = {what: int(number) for number, what in re.findall(r"(\d+) (passed|failed|skipped|errors?)", last)}
    failed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    if not counts:
        raise RuntimeError(f"pytest told nothing: {done.stdout[-500:]} {done.stderr[-500:]}")
    return {**counts, "which": failed}


def graphs(scale: Scale, _args: argparse.Namespace) -> dict[str, Any]:
    """A whole step as a CUDA graph, with taps and head inside and without: bits of the host, and what the head adds."""
    if scale.device.type != "cuda":
        raise SkippedError("there are no CUDA graphs on a CPU")
    host = scale.placed(scale.host())
    with_depth = Attached(host, scale.head(host))
    inputs = [scale.pixels() for _ in range(IMAGES)]
    outputs: dict[str, Tensor] = {}

    def step(pixels: Tensor) -> Tensor:
        outputs["host"] = with_depth.host(pixels).last_hidden_state
        return with_depth.depth.read()[0].depth_m

    cases = [
        Case("host", lambda which: host(inputs[which]).last_hidden_state),
        Case("host + read", lambda which: with_depth.read(inputs[which])),
        graphed("host, graph", lambda pixels: host(pixels).last_hidden_state, inputs),
        graphed("host + read, graph", step, inputs),
    ]
    with torch.no_grad():
        depth = cases[3].step(1).clone()
        captured = outputs["host"].clone()
        plain, expected = host(inputs[1]).last_hidden_state, with_depth.read(inputs[1])
    return {
        "host_bits": same_bits(captured, plain),
        "depth_differs_by": float(((depth - expected).abs() / expected).max()),
        "ms": _ms(timed(cases, scale.rounds, scale.device)),
    }


@torch.no_grad()
def graphed(name: str, model: Callable[[Tensor], Tensor], inputs: Sequence[Tensor]) -> Case:
    """The model as a CUDA graph; copying an input to where the graph reads is part of a run."""
    static = inputs[0].clone()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            model(static)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = model(static)

    def step(which: int) -> Tensor:
        static.copy_(inputs[which])
        graph.replay()
        return output

    return Case(name, step)


def compiled(scale: Scale, _args: argparse.Namespace) -> dict[str, Any]:
    """A compiled host with a head attached, by mode: whether its bits are those without, and what the head adds."""
    modes = ["default", "reduce-overhead"] if scale.device.type == "cuda" else ["default"]
    found = {}
    for mode in modes:
        torch.compiler.reset()
        host = scale.placed(scale.host())
        inputs = [scale.pixels() for _ in range(IMAGES)]
        with torch.no_grad():
            host.compile(mode=mode)
            alone = [host(each).last_hidden_state.clone() for each in inputs]
            attached = Attached(host, scale.head(host))
            attached.host.compile(mode=mode)
            bits = [same_bits(attached.unread(each).clone(), right) for each, right in zip(inputs, alone, strict=True)]
            attached.depth.skip()
            plain = Case("host", lambda which, host=host, inputs=inputs: host(inputs[which]).last_hidden_state)
            read = Case("host + read", lambda which, one=attached, inputs=inputs: one.read(inputs[which]))
            for case in (plain, read):
                case.step(0)
            times = timed([plain, read], scale.rounds, scale.device)
        found[mode] = {"host_bits": all(bits), "ms": _ms(times), "ratio": _ratio(times, "host + read", "host")}
    return found


def latency(scale: Scale, _args: argparse.Namespace) -> dict[str, Any]:
    """What a read adds to its tower, by batch and cameras, eager; and to a step of a policy of SmolVLA's size."""
    host = scale.placed(scale.host())
    attached = Attached(host, scale.head(host))
    rows = []
    for batch in BATCHES:
        for cameras in CAMERAS:
            inputs = [[scale.pixels(batch) for _ in range(cameras)] for _ in range(IMAGES)]
            times = timed(_camera_cases(host, attached, inputs), scale.rounds, scale.device)
            ratio = _ratio(times, "host + read", "host")
            rows.append({"batch": batch, "cameras": cameras, "ms": _ms(times), "ratio": ratio})
    return {"tower": rows, "policy": policy_latency(scale)}


def _camera_cases(host: nn.Module, attached: Attached, inputs: list[list[Tensor]]) -> list[Case]:
    def alone(which: int) -> Tensor:
        return [host(pixels).last_hidden_state for pixels in inputs[which]][-1]

    def read(which: int) -> Tensor:
        for pixels in inputs[which]:
            attached.host(pixels)
        return attached.depth.read()[-1].depth_m

    cases = [Case("host", alone), Case("host + read", read)]
    with torch.no_grad():
        for case in cases:
            case.step(0)
    return cases


def policy_latency(scale: Scale) -> dict[str, Any]:
    """A whole step of a policy with one camera, with and without a read."""
    policy = scale.placed(StandIn(scale.policy))
    inputs = [policy.images(1) for _ in range(IMAGES)]
    with torch.no_grad(), attach_depth_head(policy, scale.head(policy)) as depth:

        def read(which: int) -> Tensor:
            policy(inputs[which])
            return depth.read()[-1].depth_m

        def alone(which: int) -> Tensor:
            actions = policy(inputs[which])
            depth.skip()
            return actions

        cases = [Case("policy", alone), Case("policy + read", read)]
        for case in cases:
            case.step(0)
        times = timed(cases, scale.rounds, scale.device)
    return {"ms": _ms(times), "ratio": _ratio(times, "policy + read", "policy")}


def training(scale: Scale, _args: argparse.Namespace) -> dict[str, Any]:
    """Images a second into the cache, and steps a second beside the published way."""
    host = scale.host().eval().requires_grad_(False).to(scale.device)  # float32, as heads are trained
    recipe = Recipe()
    with tempfile.TemporaryDirectory() as name:
        began = time.perf_counter()
        samples = NoiseSamples(scale.images, scale.side)
        from_cache(host, DEFAULT_ARCHITECTURE, recipe, samples, Path(name) / "cached")
        cached = scale.images * recipe.views / (time.perf_counter() - began)
        chosen = ways(host, scale.side, Path(name), images=scale.images, batch=8, repeats=8)
        times = timed_steps(chosen, max(2, scale.rounds // 8), scale.device)
    per_second = {way: 1e3 / statistics.median(turns) for way, turns in times.items()}
    return {"views_cached_per_second": round(cached, 1), "steps_per_second": _rounded(per_second, 2)}


def memory(scale: Scale, _args: argparse.Namespace) -> dict[str, Any]:
    """Most megabytes beyond the weights: a step of the host, with its depth read, and unread frames as they wait."""
    host = scale.placed(scale.host())
    attached = Attached(host, scale.head(host))
    pixels = scale.pixels()

    def unread() -> None:
        for _ in range(32):
            attached.unread(pixels)

    runs = {"host": lambda: host(pixels), "host + read": lambda: attached.read(pixels), "32 steps unread": unread}
    with torch.no_grad():
        return {"mb": _rounded({name: peak_bytes(run, scale.device) / 1e6 for name, run in runs.items()}, 1)}


def nyu(scale: Scale, args: argparse.Namespace) -> dict[str, Any]:
    """The default head on NYU by the recommended recipe, from its photos to its score."""
    if args.nyu is None or args.weights is None:
        raise SkippedError("--nyu and --weights were not given")
    host = [*HOST, "--host-weights", str(args.weights)]
    lists = ["--data", str(args.nyu / TRAIN), "--val", str(args.nyu / VAL)]
    short = [] if scale.device.type == "cuda" else ["--epochs", "1", "--views", "1"]
    with tempfile.TemporaryDirectory() as name:
        began = time.perf_counter()
        call(
            "train", *host, *lists, "--out", f"{name}/run", "--precision", "bf16", "--device", scale.device.type, *short
        )
        seconds = time.perf_counter() - began
        scored = call("eval", *host, "--head", f"{name}/run/head", "--data", lists[3], "--device", scale.device.type)
    return {"seconds": round(seconds, 1), "recipe": " ".join(short) or "recommended", "scores": scored}


def _ms(times: dict[str, list[float]]) -> dict[str, Any]:
    return {name: spread(turns, 3) for name, turns in times.items()}


def _ratio(times: dict[str, list[float]], above: str, below: str) -> dict[str, Any]:
    """Median and quartiles of the ratios of single rounds."""
    return spread([one / other for one, other in zip(times[above], times[below], strict=True)], 4)


def _rounded(values: dict[str, float], digits: int) -> dict[str, float]:
    return {name: round(value, digits) for name, value in values.items()}


PARTS: dict[str, tuple[int, Callable[[Scale, argparse.Namespace], dict[str, Any]]]] = {
    "tests": (90, tests),
    "graphs": (45, graphs),
    "latency": (60, latency),
    "memory": (20, memory),
    "compiled": (75, compiled),
    "training": (60, training),
    "nyu": (120, nyu),
}
"""In order of worth, with the seconds that each may take."""
