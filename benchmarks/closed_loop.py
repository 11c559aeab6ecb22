"""Robots in closed loops with true depth, predicted depth and none: how many succeed, how many collide.

python benchmarks/closed_loop.py rover          # a depth safety filter around a driving policy, no simulator
python benchmarks/closed_loop.py two-cameras    # a block hidden from one of two cameras, no simulator
python benchmarks/closed_loop.py arm            # reach and lift in MuJoCo; needs its extra `sim` and OpenGL
python benchmarks/closed_loop.py --table        # the table of examples/README.md, from the record; measures nothing

Every part drives the same seeds with every source of depth, none of them seen in training or tuning, and replaces its
rows in the record.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from spaceclip_plugin._files import write_json

RECORD = Path(__file__).parent / "results" / "closed_loop.json"
FIRST_SEED = 5_000_000
EPISODES = 50
SOURCES = {
    "true": "ground truth",
    "predicted": "predicted",
    "steady": "predicted, steady by the joints",
    "aligned": "predicted, aligned to the table",
    "none": "none",
    "table": "none: as if the block stood on the table",
}


def rover(seeds: range) -> list[Any]:
    """Reach what the instruction names, without touching anything."""
    from spaceclip_worlds.rover.episode import DEPTHS, score

    return [score(seeds, depth) for depth in DEPTHS]


def arm(seeds: range) -> list[Any]:
    """Reach, and lift, a block that stands on a stand of unknown height."""
    from spaceclip_worlds.arm.episode import ALIGNED, PREDICTED, STEADY, TABLE, TRUE, score

    three = [score(seeds, depth) for depth in (TRUE, ALIGNED, PREDICTED, STEADY, TABLE)]
    return [*three, *(score(seeds, depth, looks=1) for depth in (TRUE, ALIGNED, PREDICTED, TABLE))]


def two_cameras(seeds: range) -> list[Any]:
    """Find a block that a screen hides from one camera."""
    from spaceclip_worlds.arm.two_camera_loop import ALIGNED, CAMERAS, TABLE, TRUE, score

    return [score(seeds, depth, cameras=name) for depth in (TRUE, ALIGNED, TABLE) for name in CAMERAS]


PARTS: dict[str, Callable[[range], list[Any]]] = {"rover": rover, "arm": arm, "two-cameras": two_cameras}


def table(record: dict[str, Any]) -> str:
    """The page's: one row for each loop and source of depth."""
    lines = ["| loop | depth | seeds | success | collisions | CPU time (s) |", "|---|---|---|---|---|---|"]
    for name, part in record.items():
        for row in part["rows"]:
            lines.append(f"| {_cells(name, row)} |")
    return "\n".join(lines)


def _cells(name: str, row: dict[str, Any]) -> str:
    depth, seeds, cpu = SOURCES[row["depth"]], row["seeds"], f"{row['cpu_seconds']:.0f}"
    if name == "rover":
        late = f", {row['timeouts']} late" if row["timeouts"] else ""
        success = f"{_counted(row['successes'], seeds)} at the goal{late}"
        loop, hits = "drive to what is named", _counted(row["collisions"], seeds)
    elif name == "arm":
        error = 100 * row["median_error_m"]
        success = f"{_counted(row['reached'], seeds)} reached, {row['lifted']} lifted (error {error:.1f} cm)"
        looks = "1 look" if row["looks"] == 1 else f"{row['looks']} looks"
        loop, hits = f"reach and lift, MuJoCo, {looks}", _counted(row["collisions"], seeds)
    else:
        error_m = row["median_error_m"]
        error = "" if error_m is None else f" (error {100 * error_m:.1f} cm)"
        cameras = "both cameras" if row["cameras"] == "both" else f"{row['cameras']} camera"
        loop, hits = f"find a hidden block, {cameras}", "–"
        success = f"{_counted(row['found'], seeds)} found{error}"
    return " | ".join((loop, depth, str(seeds), success, hits, cpu))


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """The 95 % interval of a share, after Wilson (1927).

    Raises:
        ValueError: no trial.
    """
    if trials < 1:
        raise ValueError("an interval needs at least one trial")
    z, share = 1.959964, successes / trials
    middle = share + z * z / (2 * trials)
    half = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    low, high = ((middle + sign * half) / (1 + z * z / trials) for sign in (-1.0, 1.0))
    return max(0.0, low), min(1.0, high)


def _counted(count: int, of: int) -> str:
    """A count and the interval of its share."""
    low, high = (100 * end for end in wilson(count, of))
    return f"{count} ({low:.0f}–{high:.0f} %)"


def main() -> None:
    """Drive and record, or print the record as a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", nargs="?", choices=PARTS)
    parser.add_argument("--episodes", type=int, default=EPISODES)
    parser.add_argument("--record", type=Path, default=RECORD)
    parser.add_argument("--table", action="store_true")
    args = parser.parse_args()
    record: dict[str, Any] = json.loads(args.record.read_text()) if args.record.is_file() else {}
    if args.part is not None:
        torch.set_num_threads(1)
        rows = PARTS[args.part](range(FIRST_SEED, FIRST_SEED + args.episodes))
        record[args.part] = {
            "command": f"python benchmarks/closed_loop.py {args.part}",
            "task": (PARTS[args.part].__doc__ or "").strip(),
            "first_seed": FIRST_SEED,
            "machine": f"{platform.machine()}, CPU, one thread, torch {torch.__version__}",
            "rows": [dataclasses.asdict(row) for row in rows],
        }
        record = {name: record[name] for name in PARTS if name in record}
        write_json(args.record, record)
    print(table(record))


if __name__ == "__main__":
    main()
