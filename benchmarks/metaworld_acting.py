"""Meta-World's scripted policies told by depth where things are: how many succeed, and how good the head's depth is.

    MUJOCO_GL=egl python benchmarks/metaworld_acting.py acting --weights deit_tiny_timm.safetensors
    MUJOCO_GL=egl python benchmarks/metaworld_acting.py unseen --weights deit_tiny_timm.safetensors
    python benchmarks/metaworld_acting.py --table    (the tables of examples/README.md, from the record)

Needs the extra `[metaworld]`. The tower is an ImageNet-supervised ViT (DeiT-Tiny), not CLIP. Every task is done from
the same seeds with every source of depth; none of them was seen in training or tuning. `unseen` scores the head on
pictures of tasks that it was not trained on, and from where no picture of its training was taken.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from closed_loop import wilson
from metaworld_heads import HOST, LOOKS, TEST, opened, protocol

from spaceclip_plugin import attach_depth_head
from spaceclip_plugin._files import write_json
from spaceclip_plugin.data import DepthSample
from spaceclip_plugin.evaluation import Evaluation, evaluate
from spaceclip_plugin.towers import load_host
from spaceclip_worlds.metaworld.acting import DEPTH_TASKS, LOOKS_AT_START, DepthTask, attempt, looks_at
from spaceclip_worlds.metaworld.belief import SLOTS
from spaceclip_worlds.metaworld.cameras import Pose
from spaceclip_worlds.metaworld.live import LiveTask
from spaceclip_worlds.metaworld.tasks import TEST_TASKS, TRAINING_TASKS
from spaceclip_worlds.metaworld.told import HEAD, SOURCES, Teller, told

RECORD = Path(__file__).parent / "results" / "metaworld_acting.json"
FIRST_SEED, SEEDS = 5_000_000, 50
STATE = "state"
ROWS = (STATE, *SOURCES)
COLUMNS = {"state": "state", "true": "true depth", "predicted": "predicted", "steady": "steady, 5 looks",
         "table": "scale from the table", "fused": "the same, 5 looks weighed", "rays": "5 looks, no depth",
         "none": "none"}  # fmt: skip
BEST_OF = ("predicted", "steady", "table", "fused")
WANTED_SHARE, WANTED_TASKS = 0.9, 6
_STEPS = 40
UNSEEN = {
    "standard": "ten unseen tasks, as policies see them",
    "varied": "ten unseen tasks, other surfaces, lights, lenses and places",
    "trained-elsewhere": "trained tasks from an unseen place, 100 degrees round the table",
    "unseen-elsewhere": "unseen tasks from there",
    "unseen-20": "unseen tasks from 20 degrees round the table",
    "unseen-45": "unseen tasks from 45 degrees",
}


def acting(weights: Path, seeds: Sequence[int], names: Sequence[str], keep: Callable[[dict[str, Any]], object]) -> None:
    """Do tasks from all seeds with every source of depth, and keep what there is after each."""
    found: dict[str, Any] = {}
    with Teller(load_host(HOST[1], weights=weights)) as teller:
        for name in names:
            found[name] = _done(name, DEPTH_TASKS[name], seeds, teller)
            rows = {row: found[name]["rows"][row]["successes"] for row in ROWS}
            print(name, rows, f"{found[name]['wall_seconds']:.0f} s", flush=True)
            head = {"head": HEAD, "head_digest": teller.head_digest}
            keep({"seeds": len(seeds), "first_seed": seeds[0], "looks": LOOKS_AT_START, **head, "tasks": found})


def _done(name: str, task: DepthTask, seeds: Sequence[int], teller: Teller) -> dict[str, Any]:
    started = time.perf_counter()
    successes: dict[str, int] = dict.fromkeys(ROWS, 0)
    off: dict[str, dict[str, list[float]]] = {source: {slot: [] for slot in task.parts} for source in SOURCES}
    distances: dict[str, list[float]] = {slot: [] for slot in task.parts}
    with LiveTask(name, higher=task.higher) as live:
        for seed in seeds:
            live.start(seed)
            looks = looks_at(live, task, seed=seed)
            truth = {slot: live.observation[SLOTS[slot]].copy() for slot in task.parts}
            depths = teller.depths(looks)
            places = told(task, looks, depths)
            for slot, seen in looks[0].sights.items():
                further_m = seen.distance_m(depths.alone[0].depth_m[0].numpy()) - seen.distance_m(
                    looks[0].frame.depth_m
                )
                distances[slot].append(further_m)
            for row in ROWS:
                successes[row] += attempt(live, seed, task, None if row == STATE else places[row])
            for source in SOURCES:
                for slot, true_m in truth.items():
                    off[source][slot].append(float(np.linalg.norm(places[source][slot] - true_m)))
    rows: dict[str, Any] = {}
    for row in ROWS:
        low, high = wilson(successes[row], len(seeds))
        errors = {slot: float(np.median(values)) for slot, values in off[row].items()} if row in off else {}
        rows[row] = {"successes": successes[row], "low": low, "high": high, "median_error_m": errors}
    return {
        "trained_on": name in TRAINING_TASKS,
        "rows": rows,
        "predicted_too_far_m": {slot: float(np.median(values)) for slot, values in distances.items()},
        "wall_seconds": time.perf_counter() - started,
    }


class _Taken(list[DepthSample]):
    """Samples whose depth is a renderer's."""

    exact_depth = True


def elsewhere(tasks: Sequence[str], each: int, turn_deg: float = 100.0) -> _Taken:
    """Pictures of tasks on their way, from where the camera was carried round the table; 100 degrees are beyond the
    robot."""
    taken = _Taken()
    for name in tasks:
        with LiveTask(name) as live:
            for seed in range(FIRST_SEED, FIRST_SEED + each):
                live.start(seed)
                expert = live.expert()
                for _ in range(_STEPS):
                    live.step(expert(live.observation))
                frame = live.render(turned(live.pose(), turn_deg))
                taken.append(DepthSample(frame.image, frame.depth_m, f"{name} seed {seed} elsewhere", frame.intrinsics))
    return taken


def turned(pose: Pose, turn_deg: float) -> Pose:
    """A camera's pose after it was carried round an upright axis through what it looks at on the table."""
    middle = pose[:3, 3] - pose[2, 3] / pose[2, 2] * pose[:3, 2]
    cos, sin = math.cos(math.radians(turn_deg)), math.sin(math.radians(turn_deg))
    turn = np.eye(4)
    turn[:2, :2] = [[cos, -sin], [sin, cos]]
    turn[:3, 3] = middle - turn[:3, :3] @ middle
    carried: Pose = turn @ pose
    return carried


def unseen(weights: Path) -> dict[str, Any]:
    """Score the head on unseen tasks, and from an unseen place."""
    sources: dict[str, Any] = {look: opened(TEST.format(look=look)) for look in LOOKS}
    sources["trained-elsewhere"] = elsewhere(TRAINING_TASKS, 1)
    sources["unseen-elsewhere"] = elsewhere(TEST_TASKS, 4)
    for turn_deg in (20, 45):
        sources[f"unseen-{turn_deg}"] = elsewhere(TEST_TASKS, 4, turn_deg)
    with torch.inference_mode(), attach_depth_head(load_host(HOST[1], weights=weights), HEAD) as attachment:
        found = {name: evaluate(attachment, sources[name], protocol=protocol()) for name in UNSEEN}
    scores = {name: _scores(each) for name, each in found.items()}
    scores["standard"]["abs_rel_of_tasks"] = _by_task(found["standard"])
    return scores


def _by_task(found: Evaluation) -> dict[str, float]:
    """AbsRel of every task, the lowest first."""
    errors: dict[str, list[float]] = {}
    for image in found.per_image:
        errors.setdefault(image.name.split()[1], []).append(image.metrics.abs_rel)
    return dict(sorted(((task, statistics.fmean(each)) for task, each in errors.items()), key=lambda one: one[1]))


def _scores(found: Evaluation) -> dict[str, Any]:
    if found.edges is None or found.coverage is None:
        raise SystemExit("the pictures have no edge, or the head tells no uncertainty: is it another head?")
    return {
        "pictures": len(found.per_image),
        "abs_rel": found.mean.abs_rel,
        "boundary_f1": found.edges.boundary_f1,
        "coverage": {str(level): share for level, share in found.coverage.items()},
        "familiarity": found.familiarity,
        "unfamiliar": found.unfamiliar,
    }


def best(task: dict[str, Any]) -> str:
    """The row of predicted depth that succeeds most often."""
    return max(BEST_OF, key=lambda row: int(task["rows"][row]["successes"]))


def reached(record: dict[str, Any]) -> list[str]:
    """The tasks in which the best row of predicted depth has 90 % of the successes of true depth."""
    tasks = record["acting"]["tasks"]
    return [
        name
        for name, task in tasks.items()
        if task["rows"][best(task)]["successes"] >= WANTED_SHARE * task["rows"]["true"]["successes"]
    ]


def table(record: dict[str, Any]) -> str:
    """Successes of every task and row, with 95 % intervals."""
    lines = [
        f"| task | {' | '.join(COLUMNS[row] for row in ROWS)} | predicted: off by |",
        "|---" * (len(ROWS) + 2) + "|",
    ]
    for name, task in record["acting"]["tasks"].items():
        cells = []
        for row in ROWS:
            found = task["rows"][row]
            cells.append(f"{found['successes']} ({100 * found['low']:.0f}–{100 * found['high']:.0f} %)")
        errors = task["rows"]["predicted"]["median_error_m"]
        off = ", ".join(f"{slot} {100 * error_m:.0f} cm" for slot, error_m in errors.items())
        kind = "" if task["trained_on"] else ", unseen"
        lines.append(f"| {name.removesuffix('-v3')}{kind} | {' | '.join(cells)} | {off} |")
    return "\n".join(lines)


def unseen_table(record: dict[str, Any]) -> str:
    """How good the head's depth is where it was not trained."""
    lines = [
        "| pictures | how many | AbsRel ↓ | boundary F1 ↑ | intervals of 50 and 90 % hold | familiarity | unfamiliar |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, title in UNSEEN.items():
        row = record["unseen"]["pictures"][name]
        held = " / ".join(f"{100 * row['coverage'][level]:.0f} %" for level in ("0.5", "0.9"))
        lines.append(
            f"| {title} | {row['pictures']} | {row['abs_rel']:.4f} | {row['boundary_f1']:.3f} | {held} | "
            f"{row['familiarity']:.2f} | {100 * row['unfamiliar']:.0f} % |"
        )
    tasks = record["unseen"]["pictures"]["standard"]["abs_rel_of_tasks"]
    named = ", ".join(f"{task.removesuffix('-v3')} {error:.3f}" for task, error in tasks.items())
    return "\n".join([*lines, "", f"AbsRel of each task, as policies see it: {named}."])


def main() -> None:
    """Act or score and record, or print the record as tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", nargs="?", choices=("acting", "unseen"))
    parser.add_argument("--weights", type=Path, help="of the DeiT-Tiny")
    parser.add_argument("--first-seed", type=int, default=FIRST_SEED)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    tasks = "do these again, and keep the others of the record where head and seeds are the same"
    parser.add_argument("--tasks", nargs="+", choices=DEPTH_TASKS, default=[*DEPTH_TASKS], metavar="TASK", help=tasks)
    parser.add_argument("--record", type=Path, default=RECORD)
    parser.add_argument("--table", action="store_true")
    args = parser.parse_args()
    record: dict[str, Any] = json.loads(args.record.read_text()) if args.record.is_file() else {}
    if args.part is not None:
        if args.weights is None:
            parser.error("--weights is needed: the file of the tower's weights")
        torch.set_num_threads(1)
        seeds = range(args.first_seed, args.first_seed + args.seeds)

        def keep(found: dict[str, Any]) -> None:
            command = f"python benchmarks/metaworld_acting.py {args.part} --weights {args.weights.name}"
            machine = f"{platform.machine()}, CPU, one thread, torch {torch.__version__}"
            record[args.part] = found | {"command": command, "machine": machine}
            write_json(args.record, record)

        def keep_with_others(found: dict[str, Any]) -> None:
            before = record.get("acting", {})
            same = all(before.get(key) == found[key] for key in found if key != "tasks")
            tasks = (before["tasks"] if same else {}) | found["tasks"]
            keep(found | {"tasks": {name: tasks[name] for name in DEPTH_TASKS if name in tasks}})

        if args.part == "acting":
            acting(args.weights, seeds, args.tasks, keep_with_others)
        else:
            keep({"pictures": unseen(args.weights)})
    if "acting" in record:
        print(table(record), f"{len(reached(record))} of {len(record['acting']['tasks'])} tasks", sep="\n")
    if "unseen" in record:
        print(unseen_table(record))


if __name__ == "__main__":
    main()
