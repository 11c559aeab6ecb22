"""What taps cost the host: step time with taps attached and nothing read against none, and memory over many steps.

python benchmarks/host_overhead.py
python benchmarks/host_overhead.py --table      # the table of benchmarks/README.md, from the record

A CLIP ViT-B/16-sized tower (random weights) runs with and without taps in alternation, in one process; each pair of
neighbouring runs gives one ratio. Memory is what tensors hold alive, counted over 1,000 steps that no one reads.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import statistics
from pathlib import Path
from typing import Any

import torch
import transformers
from step_hosts import clip_vit_b16, small_clip
from turns import seconds

from spaceclip_plugin import DepthHead, attach_depth_head
from spaceclip_plugin._files import write_json
from spaceclip_plugin.attach import UnreadFrames

RECORD = Path(__file__).parent / "results" / "host_overhead.json"


def step_time(pairs: int, threads: int) -> dict[str, object]:
    """Ratios of neighbouring runs, with taps over without; the order within a pair alternates."""
    torch.set_num_threads(threads)
    host, pixels = clip_vit_b16(), torch.randn(1, 3, 224, 224)
    head = DepthHead.for_tower(host).eval()
    alone: list[float] = []
    tapped: list[float] = []

    def without() -> None:
        alone.append(seconds(lambda: host(pixels)))

    def with_taps() -> None:
        with attach_depth_head(host, head):
            tapped.append(seconds(lambda: host(pixels)))

    with torch.no_grad():
        for _ in range(5):
            host(pixels)
        for pair in range(pairs):
            for run in (without, with_taps) if pair % 2 else (with_taps, without):
                run()
    ratios = sorted(b / a for a, b in zip(alone, tapped, strict=True))
    return {
        "threads": threads,
        "pairs": pairs,
        "ratio_median": round(statistics.median(ratios), 4),
        "ratio_quartiles": [round(ratios[len(ratios) // 4], 4), round(ratios[3 * len(ratios) // 4], 4)],
        "ratio_of_medians": round(statistics.median(tapped) / statistics.median(alone), 4),
        "host_ms_median": round(1e3 * statistics.median(alone), 1),
    }


def tensor_bytes() -> int:
    """Bytes of every tensor storage that Python holds alive."""
    gc.collect()
    tensors = [thing for thing in gc.get_objects() if issubclass(type(thing), torch.Tensor)]
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


def memory_growth(steps: int) -> dict[str, object]:
    """Tensor bytes at the end of warm-up and after `steps` more steps, with a reader that never reads."""
    host = small_clip()
    with torch.no_grad(), attach_depth_head(host, DepthHead.for_tower(host).eval()) as depth:
        for _ in range(UnreadFrames().max_frames):
            host(torch.randn(1, 3, 64, 64))
        before = tensor_bytes()
        for _ in range(steps):
            host(torch.randn(1, 3, 64, 64))
        after, dropped = tensor_bytes(), depth.dropped
    return {
        "steps": steps,
        "unread_frames": UnreadFrames().max_frames,
        "dropped": dropped,
        "growth_bytes": after - before,
    }


def table(record: dict[str, Any]) -> str:
    """The page's: step time by number of threads, and memory."""
    lines = ["| threads | step time with taps / without | quartiles |", "|---|---|---|"]
    for run in record["step_time"]:
        low, high = run["ratio_quartiles"]
        middle = f"{run['ratio_median']:.3f}, median of {run['pairs']} pairs"
        lines.append(f"| {run['threads']} | {middle} | {low:.3f} to {high:.3f} |")
    memory = record["memory"]
    steps, first, growth = memory["steps"], memory["unread_frames"], memory["growth_bytes"]
    said = f"Over {steps:,} steps that nobody reads, after the first {first}, tensors grow by {growth} bytes."
    return "\n".join([*lines, "", said])


def main() -> None:
    """Measure, print, record; or print the record as a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=200)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--record", type=Path, default=RECORD)
    parser.add_argument("--table", action="store_true", help="print the record as Markdown, and measure nothing")
    args = parser.parse_args()
    if args.table:
        print(table(json.loads(args.record.read_text())))
        return
    torch.manual_seed(0)
    record = {
        "command": "python benchmarks/host_overhead.py",
        "host": "CLIP ViT-B/16 vision tower at 224, random weights, batch 1, float32, no_grad",
        "machine": f"{platform.machine()}, CPU, torch {torch.__version__}, transformers {transformers.__version__}",
        "step_time": [step_time(args.pairs, threads) for threads in (1, 2)],
        "memory": memory_growth(args.steps),
    }
    print(json.dumps(record, indent=2))
    write_json(args.record, record)


if __name__ == "__main__":
    main()
