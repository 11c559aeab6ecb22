"""What depth costs a policy's step: the time of `read()` after the host over the host's own, in one process.

    python benchmarks/policy_step.py              every part that the record lacks; each is written when it is done
    python benchmarks/policy_step.py heads        that part, again
    python benchmarks/policy_step.py --table      the tables of the guides, from the record, each between its marks

All weights are random. What is timed is the read itself, after a step of the host, not the difference of two steps; and
before every read the caches are filled with other things, so that none finds what the one before left there. Ratios are
of medians, with a bootstrap interval of 95 %. Run it on an idle machine. The last part, `instructions`, is slow
and does not need one.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import json
import logging
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from attached import Attached
from model_size import size_of
from sized_hosts import PI0, SMOLVLA, StandIn, TowerAlone, clip_vit_b16, depth_anything, siglip_so400m
from step_instructions import instructions
from step_tables import EVERY_STEP, EVERY_THIRD, FULL, GRID, HOST, IN_BACKGROUND, RECORD, RIVAL, SMALL, SMALL_HW, TABLES
from torch import Tensor, nn
from training_cost import CACHED_NEW, CACHED_PUBLISHED, PUBLISHED, RECOMPUTED, timed_steps, ways
from turns import PAUSE_S, over, seconds, turn_order

from spaceclip_plugin import DepthHead, DepthReader, attach_depth_head
from spaceclip_plugin._files import read_json_object, write_json
from spaceclip_plugin.attach import DepthAttachment
from spaceclip_plugin.bridges.onnx import export_onnx
from spaceclip_plugin.bridges.onnx.comparison import OUTPUT, named_inputs
from spaceclip_plugin.head.architectures import ARCHITECTURES, DEFAULT_ARCHITECTURE, STANDARD

PRESETS = tuple(ARCHITECTURES[DEFAULT_ARCHITECTURE].presets)
OTHER_THINGS = torch.zeros(1 << 24)
"""64 MB, more than a core's own caches hold."""
STEPS = 3
"""Of a policy, in one round; every third is read."""

Read = Callable[[], Any]


def cold(step: Read) -> float:
    """Milliseconds of one call that finds nothing of what was used last in a core's caches."""
    OTHER_THINGS.add_(1.0)
    return 1e3 * seconds(step)


def in_turns(
    host: Read, reads: Mapping[str, Sequence[Read]], rounds: int, seldom: Sequence[str] = ()
) -> dict[str, list[float]]:
    """Milliseconds of the host, and of all reads after it, in an order that changes; `seldom` ones every fourth time.

    Several reads of one name are as many samples.
    """
    names = [name for name, calls in reads.items() for _ in calls]
    calls = [call for some in reads.values() for call in some]
    times: dict[str, list[float]] = {name: [] for name in (HOST, *reads)}
    with torch.no_grad():
        for turn in range(-2, rounds):  # the first two find caches cold and memory not yet taken
            gc.collect()
            time.sleep(PAUSE_S)
            found = [(HOST, 1e3 * seconds(host))]
            for place in turn_order(len(calls), max(turn, 0)):
                if names[place] not in seldom or turn % 4 == 0:
                    found.append((names[place], cold(calls[place])))
            for name, taken in found if turn >= 0 else ():
                times[name].append(taken)
    return times


def ratios(times: Mapping[str, list[float]]) -> dict[str, Any]:
    """Of every read to the host."""
    return {name: over(own, times[HOST]) for name, own in times.items() if name != HOST}


def median_ms(times: Sequence[float]) -> float:
    """To a tenth."""
    return round(sorted(times)[len(times) // 2], 1)


def reads_of(
    host: nn.Module, pixels: Tensor, rounds: int, threads: int, repeats: int = 1, presets: Sequence[str] = ()
) -> dict[str, Any]:
    """The default head on a tower, read at the size of the image, at 56x56, and at that of the patch grid; and other
    presets, at the size of the image.
    """
    torch.set_num_threads(threads)
    head = DepthHead.for_tower(host).eval()
    with torch.no_grad(), attach_depth_head(host, head) as depth:
        host(pixels)
        rows, columns = depth.features()[0].hidden[head.taps[-1]].shape[-2:]
    wanted = {FULL: (head, None), SMALL: (head, SMALL_HW), GRID: (head, (rows, columns))}
    wanted |= {name: (DepthHead.for_tower(host, preset=name).eval(), None) for name in presets}
    with ExitStack() as stack:
        reads = {
            name: [partial(_attached(stack, host, one).read, size) for _ in range(repeats)]
            for name, (one, size) in wanted.items()
        }
        times = in_turns(partial(host, pixels), reads, rounds)
    return {"threads": threads, "host_ms": median_ms(times[HOST]), "reads": ratios(times)}


def tower_part(
    build: Callable[[], nn.Module], side: int, rounds: int, repeats: int = 1, presets: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """On one and on two threads."""
    host = build()
    return [reads_of(host, torch.randn(1, 3, side, side), rounds, threads, repeats, presets) for threads in (1, 2)]


def exported(attached: Callable[[], DepthAttachment], folder: Path, image_hw: tuple[int, int]) -> dict[str, Read]:
    """A head in other runtimes, by name, where they are installed; taking features out of an attachment included."""
    found: dict[str, Read] = {}
    if importlib.util.find_spec("onnxruntime") is None:
        return found
    path, threads = folder / "head.onnx", torch.get_num_threads()
    depth = attached()
    export_onnx(depth.head, path, output_hw=image_hw)
    import onnxruntime

    def inputs(depth: DepthAttachment) -> dict[str, Any]:
        return {name: value.numpy() for name, value in named_inputs(depth.features()[0]).items()}

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    found[f"{STANDARD}, ONNX Runtime {onnxruntime.__version__}"] = lambda: session.run([OUTPUT], inputs(depth))[0]
    if importlib.util.find_spec("openvino") is not None:
        import openvino

        other = attached()
        asked = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
        request = openvino.Core().compile_model(str(path), "CPU", asked).create_infer_request()
        version = openvino.__version__.partition("-")[0]
        found[f"{STANDARD}, OpenVINO {version}"] = lambda: request.infer(inputs(other))[OUTPUT]
    return found


def check_alike(expected_m: Tensor, found_m: Mapping[str, Any]) -> None:
    """That runtimes give torch's depth: RuntimeError where one is off by a thousandth of its standard deviation."""
    for name, depth_m in found_m.items():
        off = (torch.as_tensor(depth_m) - expected_m).abs().max() / expected_m.std()
        if not off <= 1e-3:
            raise RuntimeError(f"{name}: depth is off by {off:.2g} of its standard deviation")


def size_beside(host: nn.Module, head: DepthHead, pixels: Tensor) -> dict[str, float]:
    """Of a head that reads that host."""
    with torch.no_grad(), attach_depth_head(host, head) as depth:
        host(pixels)
        [features] = depth.features()
    return size_of(head, features)


def heads_part(
    host: nn.Module, rival: nn.Module, sides: tuple[int, int, int], rounds: int, threads: Sequence[int] = (1, 2)
) -> dict[str, Any]:
    """The default head, the published decoder, runtimes and another depth model beside one tower; and all sizes.

    `sides` are those of the host's image and of the other model's, which is timed at two.
    """
    presets = {name: DepthHead.for_tower(host, preset=name).eval() for name in PRESETS}
    heads = {STANDARD: presets[STANDARD], f"{STANDARD}, fused": presets[STANDARD].fuse()}
    heads[PUBLISHED] = DepthHead.for_tower(host, architecture=PUBLISHED).eval()
    heads[f"{PUBLISHED}, fused"] = heads[PUBLISHED].fuse()
    pixels, *images = (torch.randn(1, 3, side, side) for side in sides)
    rivals = {f"{RIVAL} @{side}": image for side, image in zip(sides[1:], images, strict=True)}
    largest = list(rivals)[-1]
    sizes = {HOST: size_of(host, pixels)}
    sizes |= {name: size_beside(host, head, pixels) for name, head in (presets | heads).items()}
    sizes |= {name: size_of(rival, image) for name, image in rivals.items()}
    runs = []
    for count in threads:
        torch.set_num_threads(count)
        with ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
            attached = partial(_attached, stack, host)
            reads: dict[str, list[Read]] = {name: [attached(head).read] for name, head in heads.items()}
            runtimes = exported(partial(attached, heads[STANDARD]), Path(folder), (sides[0], sides[0]))
            reads |= {name: [run] for name, run in runtimes.items()}
            reads |= {name: [partial(rival, image)] for name, image in rivals.items()}
            with torch.no_grad():
                host(pixels)
                check_alike(reads[STANDARD][0]()[0].depth_m, {name: run() for name, run in runtimes.items()})
            times = in_turns(partial(host, pixels), reads, rounds, seldom=[largest])
        pairs = {
            "standard / published": (STANDARD, PUBLISHED),
            "published, fused / as it is": (f"{PUBLISHED}, fused", PUBLISHED),
            "standard / Depth Anything": (STANDARD, largest),
        }
        more = {name: over(times[own], times[base]) for name, (own, base) in pairs.items()}
        runs.append({"threads": count, "host_ms": median_ms(times[HOST]), "reads": ratios(times), "more": more})
    return {"sizes": sizes, "runs": runs}


def _attached(stack: ExitStack, host: nn.Module, head: DepthHead) -> DepthAttachment:
    return stack.enter_context(attach_depth_head(host, head))


def policy_rows(
    policy: StandIn | TowerAlone, threads: int, rounds: int, repeats: int = 1, cameras: Sequence[int] = (1, 2, 3)
) -> Iterator[dict[str, Any]]:
    """What reading adds to a whole step. Every step and every third: the read itself, after the policy. Background:
    steps with a thread that reads, over those without; what it still has to do after a round is not waited for within
    the time, as a robot waits for its next image.
    """
    torch.set_num_threads(threads)
    head = DepthHead.for_tower(policy).eval()
    for count in cameras:
        images = policy.images(count)
        times: dict[str, list[float]] = {name: [] for name in (HOST, EVERY_STEP, EVERY_THIRD, IN_BACKGROUND)}
        ages: list[int] = []
        with torch.no_grad(), attach_depth_head(policy, head) as depth:
            policy(images)
            depth.read()
        for _ in range(rounds):
            gc.collect()
            with torch.no_grad(), ExitStack() as stack:
                made = [stack.enter_context(attach_depth_head(policy, head)) for _ in range(2 * repeats)]
                each = [DepthReader(depth) for depth in made[:repeats]]
                third = [DepthReader(depth, every=STEPS) for depth in made[repeats:]]
                spent = [0.0] * repeats
                for _ in range(STEPS):
                    time.sleep(PAUSE_S)
                    times[HOST].append(1e3 * seconds(partial(policy, images)))
                    for number in range(repeats):
                        times[EVERY_STEP].append(cold(each[number].step))
                        spent[number] += cold(third[number].step)
                times[EVERY_THIRD] += [taken / STEPS for taken in spent]
            with (
                torch.no_grad(),
                attach_depth_head(policy, head) as depth,
                DepthReader(depth, background=True) as reader,
            ):
                for _ in range(STEPS):
                    time.sleep(PAUSE_S)
                    both = (partial(policy, images), reader.step)
                    times[IN_BACKGROUND].append(1e3 * sum(seconds(one) for one in both))
                    if reader.latest is not None:
                        ages.append(reader.latest.age)
                reader.wait()
        found = ratios(times)
        yield {
            "threads": threads,
            "cameras": count,
            "step_ms": median_ms(times[HOST]),
            "added": {name: found[name] for name in (EVERY_STEP, EVERY_THIRD)},
            "with": {IN_BACKGROUND: found[IN_BACKGROUND]},
            "age_in_background": round(sum(ages) / len(ages), 1) if ages else None,
        }


def alone_part(together: bool = False) -> list[dict[str, Any]]:
    """A tower of ViT-B/16's size and nothing else; `together`: all cameras in one call."""
    policy = TowerAlone(clip_vit_b16(), 224, together=together)
    return [
        row for threads in (1, 2) for row in policy_rows(policy, threads, 4, cameras=(3,) if together else (1, 2, 3))
    ]


def taps_part(host: nn.Module, pixels: Tensor, pairs: int) -> list[dict[str, Any]]:
    """Steps of the host with taps that nobody reads, over those without, in turns."""
    tapped = Attached(host, DepthHead.for_tower(host).eval())
    runs = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        times: dict[str, list[float]] = {"without": [], "with": []}
        calls = {"without": lambda: host(pixels), "with": lambda: tapped.host(pixels)}
        with torch.no_grad():
            for turn in range(-2, pairs):
                for name in sorted(calls, reverse=bool(turn % 2)):
                    time.sleep(PAUSE_S)
                    taken = seconds(calls[name])
                    if turn >= 0:
                        times[name].append(taken)
        runs.append({"threads": threads, "ratio": over(times["with"], times["without"])})
    return runs


def training_part(host: nn.Module, side: int, rounds: int, images: int = 16, batch: int = 8) -> dict[str, Any]:
    """Steps a second of the package's ways to train over those of the published one, batches of eight, two threads."""
    torch.set_num_threads(2)
    with tempfile.TemporaryDirectory() as folder:
        chosen = ways(host, side, Path(folder), images=images, batch=batch, repeats=8)
        times = timed_steps(chosen, rounds, torch.device("cpu"))
    return {"threads": 2, **{name: over(times[RECOMPUTED], times[name]) for name in (CACHED_PUBLISHED, CACHED_NEW)}}


PARTS: dict[str, Callable[[], Any]] = {
    "vit-b": lambda: tower_part(clip_vit_b16, 224, 40, presets=[name for name in PRESETS if name != STANDARD]),
    "so400m-224": lambda: tower_part(siglip_so400m, 224, 10, repeats=2),
    "so400m-384": lambda: tower_part(partial(siglip_so400m, 384), 384, 5, repeats=3),
    "heads": lambda: heads_part(clip_vit_b16(), depth_anything(), (224, 224, 518), 24),
    "taps": lambda: taps_part(clip_vit_b16(), torch.randn(1, 3, 224, 224), 60),
    "tower-alone": alone_part,
    "one-call": lambda: alone_part(together=True),
    "smolvla": lambda: list(policy_rows(StandIn(SMOLVLA), 2, 2, repeats=3)),
    "pi0": lambda: list(policy_rows(StandIn(PI0), 2, 1, repeats=3)),
    "training": lambda: training_part(clip_vit_b16(), 224, 3),
    "instructions": instructions,
}


def main(argv: Sequence[str] | None = None) -> None:
    """Measure what lacks or what is named, record, print; or print the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--record", type=Path, default=RECORD)
    parser.add_argument("--table", action="store_true", help="print the record as Markdown, and measure nothing")
    args = parser.parse_args(argv)
    if unknown := set(args.parts) - set(PARTS):
        parser.error(f"no part is called {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    record = read_json_object(args.record) if args.record.is_file() else {}
    os.environ.setdefault("KINETO_LOG_LEVEL", "5")  # the profiler tells standard error of every start and stop
    logging.getLogger("spaceclip_plugin").setLevel(logging.ERROR)  # that heads have random weights is known here
    for part in () if args.table else args.parts or [name for name in PARTS if name not in record]:
        torch.manual_seed(0)
        began = time.perf_counter()
        found = PARTS[part]()
        versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
        about = {"machine": f"{platform.machine()}, CPU, {versions}", "head": DEFAULT_ARCHITECTURE}
        record[part] = {"found": found, "seconds": round(time.perf_counter() - began), **about}
        write_json(args.record, record)
        print(json.dumps({part: record[part]}), flush=True)
    for mark, make in TABLES.items():
        print(f"\n<!-- {mark} -->\n{make(record)}\n<!-- /{mark} -->")


if __name__ == "__main__":
    main()
