"""A head on a policy: what its figures are worth on the robot, how long it takes from nothing to one, and annotating.

    python benchmarks/deployed.py --part accuracy --nyu DIR --weights deit_tiny_timm.safetensors
    python benchmarks/deployed.py --part first-head --threads 2 [--frames N] [--views N] [--epochs N]
    python benchmarks/deployed.py --part annotate --threads 2      (needs LeRobot 0.6 with its data sets)
    python benchmarks/deployed.py --table                          (those of benchmarks/README.md, from the record)

Each part replaces its own in the record, a first head those of as many views and epochs. Accuracy is of a policy that
pads its images as SmolVLA does, around an ImageNet-supervised DeiT-Tiny, on the 8-bit in-filled NYU labelled set. The
other two are of a tower of SmolVLA's size and a teacher of Depth Anything's Small size, with random weights and photos
of noise: only the times mean anything.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import deployed_policy as world
import torch
from nyu_heads import call

from spaceclip_plugin import DepthHead, attach_depth_head
from spaceclip_plugin._files import read_json_object, write_json
from spaceclip_plugin.data.sources.depth_list import DepthList
from spaceclip_plugin.evaluation import evaluate, get_protocol, mean_metrics
from spaceclip_plugin.teaching import load_teacher, train_head
from spaceclip_plugin.towers import ImageGeometry
from spaceclip_plugin.training import Recipe

RECORD = Path(__file__).parent / "results" / "deployed.json"
TRAIN, VAL = "train_695.txt", "val_100.txt"
LIGHT = Recipe(epochs=8, views=2, precision="bf16")
WANTED_FRAMES = 500
TEACHERS_FARTHEST_M = 20.0  # of random weights, all depth is about half of it
RECIPE = ("views", "epochs")
PREPARATIONS = ("squashed", "as the policy prepares")


# --- what figures are worth -----------------------------------------------------------------------------------------


def accuracy(args: argparse.Namespace) -> dict[str, Any]:
    """Of a head by each preparation of its photos: what evaluation reports, and what the acting policy gives."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        train = shortened(args.nyu / TRAIN, Path(folder) / TRAIN, count=args.frames or 200)
        for name in PREPARATIONS:
            rows.append({"trained": name, **of_preparation(name, train, args, Path(folder) / name.replace(" ", "-"))})
    return {"train_images": args.frames or 200, "recipe": vars(LIGHT), "rows": rows}


def of_preparation(name: str, train: Path, args: argparse.Namespace, out: Path) -> dict[str, Any]:
    """Train a head on photos so prepared, evaluate it so, and have the policy act on the same photos."""
    protocol = get_protocol("nyu-eigen")
    samples = DepthList(args.nyu / VAL, units_per_metre=protocol.depth_scale)
    policy = world.SmolVLAPolicy(args.weights)
    if name == PREPARATIONS[0]:
        ImageGeometry.STRETCH.declare(policy)  # the user's word goes before the policy's own method
    result = train_head(
        policy, f"list:{train}", validation=f"list:{args.nyu / VAL}", out=out, protocol=protocol, recipe=LIGHT
    )
    with attach_depth_head(policy, result.folder) as depth:
        reported = evaluate(depth, samples, protocol=protocol).mean
    acting = world.SmolVLAPolicy(args.weights)  # as it is deployed: no one says anything of its images
    scores = []
    with attach_depth_head(acting, result.folder) as depth:
        for sample in (samples[i] for i in range(len(samples))):
            acting.select_action({world.KEY: torch.from_numpy(sample.image).permute(2, 0, 1)[None] / 255})
            seen = depth.read()[-1].in_camera()
            scores.append(protocol.score(seen.depth_m[0], sample))
    return {"images": len(samples), "reported": vars(reported), "deployed": vars(mean_metrics(scores))}


def shortened(path: Path, out: Path, *, count: int) -> Path:
    """The list's every so many lines, so that there are `count` of them, with whole paths."""
    lines = [line.split() for line in path.read_text().splitlines() if line.strip()]
    kept = lines[:: max(1, len(lines) // count)][:count]
    out.write_text("".join(f"{path.parent / photo} {path.parent / depth} {rest}\n" for photo, depth, rest in kept))
    return out


# --- from nothing to a head -----------------------------------------------------------------------------------------


def first_head(args: argparse.Namespace) -> dict[str, Any]:
    """Seconds of every part of `train_head` with a teacher, on so many frames."""
    frames = args.frames or WANTED_FRAMES
    recipe = dataclasses.replace(Recipe(), **{name: getattr(args, name) for name in RECIPE if getattr(args, name)})
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        world.lay_photos(folder / "photos", frames)
        world.lay_pairs(folder / "held-out", max(1, frames // 10))
        teacher = load_teacher(f"hf:{world.saved_teacher(folder / 'teacher')}", device=torch.device("cpu"))
        policy = world.smolvla_sized()
        started = time.perf_counter()
        result = train_head(
            policy,
            f"folder:{folder / 'photos'}",
            validation=f"folder:{folder / 'held-out'}",
            teacher=teacher,
            protocol=get_protocol("whole-image").with_range(0.1, TEACHERS_FARTHEST_M),
            out=folder / "run",
            recipe=recipe,
        )
        whole = time.perf_counter() - started
    rest = whole - result.seconds_caching - result.seconds_training
    seconds = {"teaching": rest, "caching": result.seconds_caching, "training": result.seconds_training}
    run = {
        "frames": frames,
        "held_out": max(1, frames // 10),
        "threads": torch.get_num_threads(),
        "recipe": vars(recipe),
        "seconds": {part: round(value, 1) for part, value in seconds.items()},
    }
    earlier = read_json_object(args.out).get("first-head", {}).get("runs", []) if args.out.is_file() else []
    kept = [each for each in earlier if any(each["recipe"][name] != run["recipe"][name] for name in RECIPE)]
    return {"runs": [*kept, run]}


# --- annotating -----------------------------------------------------------------------------------------------------


def annotate(args: argparse.Namespace) -> dict[str, Any]:
    """Frames a second of `spaceclip annotate` on a data set of videos, depth stored as video and as images."""
    frames = args.frames or 60
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        host = f"hf:{world.saved_tower(folder / 'tower')}"
        head = DepthHead.for_tower(world.smolvla_sized(), trained_on="nothing: random weights").eval()
        head.save_pretrained(folder / "head")
        world.record_videos(folder / "data", frames)
        for store in ("video", "image"):
            words = ["--host", host, "--head", str(folder / "head"), "--data", f"lerobot:{folder / 'data'}"]
            words += ["--camera", "front", "--store", store, "--out", str(folder / store), "--device", "cpu"]
            done = call("annotate", *words)
            rows.append({"store": store, "frames_per_second": round(done["frames_per_second"], 3)})
    return {"frames": frames, "photo_hw": [*world.PHOTO_HW], "threads": torch.get_num_threads(), "rows": rows}


# --- the record -----------------------------------------------------------------------------------------------------


def accuracy_table(record: Mapping[str, Any]) -> str:
    """AbsRel as reported and as deployed."""
    found = record["accuracy"]
    lines = ["| Photos for training and evaluation | AbsRel reported | AbsRel of `read()`, the policy acting | ratio |"]
    lines.append("|---|---|---|---|")
    for row in found["rows"]:
        reported, deployed = row["reported"]["abs_rel"], row["deployed"]["abs_rel"]
        lines.append(f"| {row['trained']} | {reported:.4f} | {deployed:.4f} | {deployed / reported:.2f} |")
    return "\n".join(lines)


def first_head_table(record: Mapping[str, Any]) -> str:
    """Measured minutes by part; what they come to for the wanted frames stands by itself where fewer were measured."""
    lines = ["| Views of a frame, epochs | frames measured | teaching | caching features | training | together |"]
    lines[0] += f" extrapolated to {WANTED_FRAMES} frames |"
    lines.append("|---" * 7 + "|")
    for run in record["first-head"]["runs"]:
        recipe, frames, seconds = run["recipe"], run["frames"], run["seconds"]
        whole = sum(seconds.values())
        minutes = " | ".join(f"{value / 60:.1f} min" for value in [*seconds.values(), whole])
        more = "–" if frames == WANTED_FRAMES else f"{whole * WANTED_FRAMES / frames / 60:.0f} min"
        lines.append(f"| {recipe['views']}, {recipe['epochs']} | {frames} | {minutes} | {more} |")
    return "\n".join(lines)


def annotate_table(record: Mapping[str, Any]) -> str:
    """Frames a second by how depth is stored."""
    found = record["annotate"]
    lines = ["| Depth stored as | frames a second |", "|---|---|"]
    lines += [f"| {row['store']} | {row['frames_per_second']:.2f} |" for row in found["rows"]]
    return "\n".join(lines)


PARTS = {
    "accuracy": (accuracy, accuracy_table),
    "first-head": (first_head, first_head_table),
    "annotate": (annotate, annotate_table),
}


def table(record: Mapping[str, Any]) -> str:
    """The tables of those parts that were measured."""
    return "\n\n".join(of_part(record) for part, (_, of_part) in PARTS.items() if part in record)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure a part, or print the tables of those that were."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=PARTS)
    parser.add_argument("--nyu", type=Path, help="folder of NYU's lists, photos and depth")
    parser.add_argument("--weights", type=Path, help="DeiT-Tiny's weights, of timm")
    parser.add_argument("--frames", type=int, help="fewer frames than the part takes by itself")
    for name in RECIPE:
        parser.add_argument(f"--{name}", type=int, help=f"{name} of the first head's recipe (default: the recommended)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RECORD, help="the record (default: that of the tables)")
    parser.add_argument("--table", action="store_true", help="print the record as Markdown, and measure nothing")
    args = parser.parse_args(argv)
    record = dict(read_json_object(args.out)) if args.out.is_file() else {}
    if not args.table:
        if args.part is None or (args.part == "accuracy" and (args.nyu is None or args.weights is None)):
            parser.error("--part is needed, and --nyu and --weights with accuracy")
        torch.set_num_threads(args.threads)
        found = PARTS[args.part][0](args)
        versions = {"machine": platform.machine(), "python": platform.python_version(), "torch": torch.__version__}
        record[args.part] = {**found, **versions}
        write_json(args.out, json.loads(json.dumps(record)))
    print(table(record))


if __name__ == "__main__":
    main()
