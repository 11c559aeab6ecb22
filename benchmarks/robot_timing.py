"""What depth costs a policy step, at one, two and three cameras: read every step, every third, or in the background.

python benchmarks/robot_timing.py

The policy is the worst case for depth: a CLIP ViT-B/16-sized tower, run once per camera, and nothing else (random
weights, float32). Ways of reading take turns in one process; a round of each is three policy steps, so that all see the
same share of reads. The background thread decodes while the policy goes on; what it still has to do after a round is
waited for outside the time, as a robot waits for its next image.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import platform
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from step_hosts import clip_vit_b16
from torch import Tensor, nn
from turns import PAUSE_S, spread, turn_order

from spaceclip_plugin import DepthHead, DepthReader, attach_depth_head
from spaceclip_plugin._files import write_json
from spaceclip_plugin.attach import DepthAttachment

RECORD = Path(__file__).parent / "results" / "robot_timing.json"
STEPS = 3
CAMERAS = (1, 2, 3)
ALONE = "no depth"
WAYS: dict[str, Callable[[DepthAttachment], DepthReader]] = {
    "every step": DepthReader,
    "every third step": lambda depth: DepthReader(depth, every=STEPS),
    "in the background": lambda depth: DepthReader(depth, background=True),
}


@contextlib.contextmanager
def reading(host: nn.Module, head: DepthHead, way: str) -> Iterator[DepthReader | None]:
    """A reader of that way, attached for one round: taps of one way do not burden another's."""
    if way == ALONE:
        yield None
        return
    with attach_depth_head(host, head) as depth, WAYS[way](depth) as reader:
        yield reader


def round_ms(host: nn.Module, head: DepthHead, way: str, images: list[list[Tensor]], ages: list[int]) -> float:
    """Milliseconds of a policy step, the mean of a round; `ages` gains that of the newest depth after each step."""
    with reading(host, head, way) as reader:
        began = time.perf_counter()
        for cameras in images:
            for pixels in cameras:
                host(pixels)
            if reader is not None:
                reader.step()
                if reader.latest is not None:
                    ages.append(reader.latest.age)
        elapsed = time.perf_counter() - began
        if reader is not None:
            reader.wait()
    return 1e3 * elapsed / len(images)


def measured(host: nn.Module, head: DepthHead, side: int, cameras: int, rounds: int) -> list[dict[str, Any]]:
    """Ratios of every way's step time over that without depth, in the same round."""
    names = [ALONE, *WAYS]
    times: dict[str, list[float]] = {name: [] for name in names}
    ages: dict[str, list[int]] = {name: [] for name in names}
    generator = torch.Generator().manual_seed(cameras)
    pool = [torch.randn(1, 3, side, side, generator=generator) for _ in range(8)]
    chosen = random.Random(cameras)
    with torch.no_grad():
        for turn in range(-1, rounds):  # the first warms up
            images = [chosen.sample(pool, cameras) for _ in range(STEPS)]
            for place in turn_order(len(names), max(turn, 0)):
                time.sleep(PAUSE_S)
                name = names[place]
                taken = round_ms(host, head, name, images, ages[name])
                if turn >= 0:
                    times[name].append(taken)
    alone = times[ALONE]
    return [
        {
            "cameras": cameras,
            "way": name,
            "alone_ms": spread(alone, 2)["median"],
            "ratio": spread([way / base for way, base in zip(times[name], alone, strict=True)], 4),
            "mean_age_steps": round(sum(ages[name]) / len(ages[name]), 2) if ages[name] else None,
        }
        for name in WAYS
    ]


def table(record: dict[str, Any]) -> str:
    """The page's: one row for each number of cameras."""
    lines = ["| cameras | step without depth | " + " | ".join(WAYS) + " |", "|---|---|" + "---|" * len(WAYS)]
    for cameras in CAMERAS:
        rows = {row["way"]: row for row in record["rows"] if row["cameras"] == cameras}
        cells = []
        for way in WAYS:
            low, high = rows[way]["ratio"]["quartiles"]
            age = rows[way]["mean_age_steps"]
            said = "none ready in a round" if age is None else f"age {age:.1f}"
            cells.append(f"{rows[way]['ratio']['median']:.3f} ({low:.3f} to {high:.3f}), {said}")
        lines.append(f"| {cameras} | {rows['every step']['alone_ms']:.0f} ms | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, print, record; or print the table of a record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=24)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--record", type=Path, default=RECORD)
    parser.add_argument("--table", action="store_true", help="print the record as Markdown, and measure nothing")
    args = parser.parse_args()
    if args.table:
        print(table(json.loads(args.record.read_text())))
        return
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    host = clip_vit_b16()
    head = DepthHead.for_tower(host, trained_on="nothing: random weights, for timing").eval().fuse()
    record = {
        "command": f"python benchmarks/robot_timing.py --rounds {args.rounds} --threads {args.threads}",
        "host": "CLIP ViT-B/16 vision tower at 224 once per camera and nothing else, random weights, float32",
        "head": f"{head.config.architecture}, fused, random weights",
        "machine": f"{platform.machine()}, CPU, torch {torch.__version__}, transformers {transformers.__version__}",
        "threads": args.threads,
        "steps_per_round": STEPS,
        "rows": [row for cameras in CAMERAS for row in measured(host, head, 224, cameras, args.rounds)],
    }
    write_json(args.record, record)
    print(table(record))


if __name__ == "__main__":
    main()
