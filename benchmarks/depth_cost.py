"""What depth costs, as ratios measured in one run: heads against their host, each other and Depth Anything V2 Small.

    python benchmarks/depth_cost.py
    python benchmarks/depth_cost.py --host siglip-so400m --threads 2
    python benchmarks/depth_cost.py --device cuda
    python benchmarks/depth_cost.py --table    (the tables of benchmarks/README.md, from the record)

All models have random weights. Everything takes turns in one process, so that a drift of the machine meets all alike;
every ratio is the median of the ratios of single rounds. On a CPU: float32, one image, no_grad. On a GPU: bfloat16,
eager and as CUDA graphs. Run it on an otherwise idle machine.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import logging
import os
import platform
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from depth_cases import Stage, World, all_cases, differences, sizes
from depth_figures import figures, table
from step_hosts import clip_vit_b16, depth_anything, siglip_so400m
from training_cost import Way, timed_steps, ways
from turns import timed

from spaceclip_plugin._files import write_json
from spaceclip_plugin.head.architectures import DEFAULT_ARCHITECTURE

RECORD = Path(__file__).parent / "results" / "depth_cost.json"
TRAINING_NOTE = (
    "depth of 352x704. The published way has this package's SSIM, faster than the published code's: its ratio is "
    "conservative. The default recipe learns from depth of at most its target_side. Steps alone are timed: before them "
    "the tower runs once over every view of every image (8 by default), features here come from 16 images, in memory"
)


WORLDS = {
    "clip-b16": World("CLIP ViT-B/16 vision tower at 224", clip_vit_b16, 224, depth_anything),
    "siglip-so400m": World("SigLIP So400m/14 vision tower at 224", siglip_so400m, 224, depth_anything),
}


def measured(
    world: World,
    *,
    device: str,
    rounds: int,
    threads: Sequence[int],
    training_rounds: int,
    compiling: bool = True,
    exporting: bool = True,
    images: int = 16,
    batch: int = 8,
    repeats: int = 8,
) -> dict[str, Any]:
    """The record, but for the command.

    Args:
        world: host and rival.
        device: "cpu" or "cuda".
        rounds: in which every case runs once.
        threads: numbers of threads, one run each.
        training_rounds: rounds of training steps; 0 leaves training out.
        compiling: whether heads are compiled too.
        exporting: whether ONNX Runtime runs them too; never on a GPU.
        images, batch, repeats: see `training_cost.ways`.
    """
    torch.set_num_threads(max(threads))
    stage = Stage(world, device)
    rival = f"{world.rival_name} @{world.rival_sides[-1]}"
    record = {
        "host": f"{world.name}, random weights, one image, {str(stage.dtype).removeprefix('torch.')}, no_grad",
        "machine": machine(device),
        "new_head": DEFAULT_ARCHITECTURE,
        "rival": rival,
        "training": f"batches of {batch}, {TRAINING_NOTE}",
    }
    runs: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary:
        chosen: list[Way] = []
        if training_rounds:
            say("caching features")
            chosen = ways(stage.host, world.side, Path(temporary), images=images, batch=batch, repeats=repeats)
        for count in threads:
            torch.set_num_threads(count)
            torch.compiler.reset()  # compiled code is made for one number of threads
            (folder := Path(temporary) / f"threads {count}").mkdir()
            say(f"{count} threads: preparing")
            cases, left_out = all_cases(stage, folder, compiling=compiling, exporting=exporting and device == "cpu")
            apart = differences(cases, stage.heads, exact=stage.dtype == torch.float32)
            say(f"{count} threads: {rounds} rounds of {len(cases)} cases, {training_rounds} rounds of training")
            times = timed(cases, rounds, stage.device)
            times |= timed_steps(chosen, training_rounds, stage.device)
            run = {
                "device": device,
                "threads": count,
                "left_out": left_out,
                "differences": {name: float(f"{value:.2g}") for name, value in apart.items()},
            }
            runs.append({**run, **figures(times, record["new_head"], rival)})
    return {**record, "sizes": sizes(stage), "runs": runs}


def machine(device: str) -> str:
    """What it ran on, without its name."""
    versions = [f"torch {torch.__version__}", f"transformers {transformers.__version__}"]
    if importlib.util.find_spec("onnxruntime") is not None:
        import onnxruntime

        versions.append(f"onnxruntime {onnxruntime.__version__}")
    place = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    return ", ".join([platform.machine(), place, *versions])


def say(text: str) -> None:
    """Progress, beside the record that goes to standard output."""
    print(text, file=sys.stderr, flush=True)


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """What is measured, how often, and where the record lies."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host", choices=WORLDS, default="clip-b16")
    parser.add_argument("--pairs", type=int, default=40, metavar="N", help="rounds in which everything runs once")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], metavar="N", help="on a GPU, the first alone")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--training-rounds", type=int, default=5, metavar="N", help="0 leaves training out")
    parser.add_argument(
        "--record",
        type=Path,
        metavar="FILE",
        help=f"default: {RECORD.name} with the other results, or named by host and device",
    )
    parser.add_argument("--table", action="store_true", help="print the record as Markdown, and stop")
    args = parser.parse_args(argv)
    if args.pairs < 1 or min(args.threads) < 1 or args.training_rounds < 0:
        parser.error("--pairs and --threads take numbers from 1, --training-rounds from 0")
    if args.device == "cuda":
        args.threads = args.threads[:1]
        if not torch.cuda.is_available() and not args.table:
            parser.error(
                f"--device cuda: torch {torch.__version__} finds no CUDA device here; leave it out for the CPU"
            )
    if args.record is None:
        usual = (args.host, args.device) == ("clip-b16", "cpu")
        args.record = RECORD if usual else RECORD.with_name(f"depth_cost_{args.host}_{args.device}.json")
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print, record."""
    args = arguments(argv)
    if args.table:
        print(table(json.loads(args.record.read_text())))
        return
    os.environ.setdefault("KINETO_LOG_LEVEL", "5")  # the profiler tells standard error of every start and stop
    logging.getLogger("spaceclip_plugin").setLevel(logging.ERROR)  # that heads have random weights is known here
    found = measured(
        WORLDS[args.host],
        device=args.device,
        rounds=args.pairs,
        threads=args.threads,
        training_rounds=args.training_rounds,
    )
    words = ["--host", args.host, "--device", args.device, "--pairs", args.pairs, "--threads", *args.threads]
    words += ["--training-rounds", args.training_rounds]
    record = {"command": " ".join(["python benchmarks/depth_cost.py", *map(str, words)]), **found}
    print(json.dumps(record, indent=2))
    write_json(args.record, record)


if __name__ == "__main__":
    main()
