"""What each preset of the head costs: the time of `read()` over that of a step of its host, in one process.

    python benchmarks/preset_cost.py
    python benchmarks/preset_cost.py --table      # the table of the training guide, from the record

The host is a tower of CLIP ViT-B/16's size with random weights, one image, float32. All presets are attached at once,
and after every step of the host each is read once, in an order that rotates; a read is compared with the step before.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from step_hosts import clip_vit_b16
from torch.utils.flop_counter import FlopCounterMode
from turns import PAUSE_S, seconds, spread

from spaceclip_plugin import DepthHead, attach_depth_head
from spaceclip_plugin._files import write_json
from spaceclip_plugin.head import ARCHITECTURES
from spaceclip_plugin.head.architectures import DEFAULT_ARCHITECTURE

RECORD = Path(__file__).parent / "results" / "preset_cost.json"
WANTED = {"standard": 0.03, "light": 0.02, "fine": 0.03}
PURPOSE = {
    "standard": "scale and surfaces, the default",
    "light": "scale alone",
    "fine": "outlines, as for hands",
}
SMALL_HW = (56, 56)
SMALL = f"standard, read({SMALL_HW})"


def measured(rounds: int, threads: int) -> dict[str, Any]:
    """Ratios of `read()` to the host's step before it, for every preset."""
    torch.set_num_threads(threads)
    host = clip_vit_b16()
    presets = list(ARCHITECTURES[DEFAULT_ARCHITECTURE].presets)
    reads = {name: attach_depth_head(host, DepthHead.for_tower(host, preset=name).eval()).read for name in presets}
    reads[SMALL] = partial(attach_depth_head(host, DepthHead.for_tower(host).eval()).read, SMALL_HW)
    names = list(reads)
    ratios: dict[str, list[float]] = {name: [] for name in names}
    steps: list[float] = []
    with torch.no_grad():
        for turn in range(rounds + 3):
            pixels = torch.randn(1, 3, 224, 224)
            time.sleep(PAUSE_S)
            step = seconds(lambda pixels=pixels: host(pixels))  # type: ignore[misc]
            order = names[turn % len(names) :] + names[: turn % len(names)]
            found = {name: seconds(reads[name]) for name in order}
            if turn >= 3:  # the first runs find caches cold
                steps.append(1e3 * step)
                for name, own in found.items():
                    ratios[name].append(own / step)
    return {
        "threads": threads,
        "host_ms": spread(steps, 1),
        "read_over_host": {name: spread(values, 4) for name, values in ratios.items()},
    }


def sizes() -> dict[str, dict[str, float]]:
    """Parameters and products of every preset on that tower."""
    host, found = clip_vit_b16(), {}
    for name in ARCHITECTURES[DEFAULT_ARCHITECTURE].presets:
        head = DepthHead.for_tower(host, preset=name).eval()
        with torch.no_grad(), attach_depth_head(host, head) as depth:
            host(torch.randn(1, 3, 224, 224))
            [features] = depth.features()
            with FlopCounterMode(display=False) as counted:
                head(features)
        parameters = sum(value.numel() for value in head.parameters())
        found[name] = {"parameters": parameters, "gflop": round(counted.get_total_flops() / 1e9, 3)}
    return found


def table(record: dict[str, Any]) -> str:
    """By preset: what it is for, its size, and its time on one and on two threads; targets that were missed have ✗.

    And of the default one the time of depth of another size.
    """
    heads = [f"read() / host step, {run['threads']} thread{'s' * (run['threads'] > 1)}" for run in record["runs"]]
    lines = [f"| `--preset` | for | parameters (M) | GFLOP | {' | '.join(heads)} |", "|---|---|---|---|---|---|"]
    for name in (*record["sizes"], SMALL):
        size = record["sizes"].get(name)
        cells = [f"`{name}`", PURPOSE[name], f"{size['parameters'] / 1e6:.2f}", f"{size['gflop']:.2f}"] if size else []
        cells = cells or [f"`standard`, `read({SMALL_HW})`", "the same, of that size", "–", "–"]
        for run in record["runs"]:
            found = run["read_over_host"][name]
            low, high = found["quartiles"]
            wanted = WANTED.get(name)
            mark = "" if wanted is None else f", wanted ≤ {wanted} {'✓' if found['median'] <= wanted else '✗'}"
            cells.append(f"{found['median']:.3f} ({low:.3f} to {high:.3f}){mark}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, print, record; or print the record as a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--table", action="store_true", help="print the record as Markdown, and measure nothing")
    args = parser.parse_args()
    if args.table:
        print(table(json.loads(RECORD.read_text())))
        return
    torch.manual_seed(0)
    record = {
        "command": f"python benchmarks/preset_cost.py --rounds {args.rounds}",
        "host": "CLIP ViT-B/16 vision tower at 224, random weights, batch 1, float32, no_grad",
        "machine": f"{platform.machine()}, CPU, torch {torch.__version__}, transformers {transformers.__version__}",
        "sizes": sizes(),
        "runs": [measured(args.rounds, threads) for threads in (1, 2)],
    }
    write_json(RECORD, record)
    print(table(record))


if __name__ == "__main__":
    main()
