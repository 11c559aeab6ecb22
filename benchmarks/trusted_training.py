"""What stands behind the promises of training: kills survived, cached against live features, memory while caching.

    python benchmarks/trusted_training.py kills                      200 kills -9 of a process that saves checkpoints
    python benchmarks/trusted_training.py memory                     features of 10,000 images, peak memory on the way
    python benchmarks/trusted_training.py cached --nyu DIR --weights deit_tiny_timm.safetensors --runs DIR
    python benchmarks/trusted_training.py speed --nyu DIR --weights deit_tiny_timm.safetensors
    python benchmarks/trusted_training.py --table    (the table of benchmarks/README.md, from the record)

`cached` trains one head three times, on features kept as float16, as int8, and made by the tower at every step, and
then scores each head with the live host. `speed` times the steps of all three in turn. The tower is an
ImageNet-supervised ViT (DeiT-Tiny), not CLIP; the depth is the 8-bit in-filled NYU labelled set.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nyu_heads import HOST, TRAIN, VAL, call
from torch import nn
from turns import turn_order

from spaceclip_plugin import DepthHead, attach_depth_head
from spaceclip_plugin._files import read_json_object, write_json
from spaceclip_plugin.data.augmentation import Augmentation
from spaceclip_plugin.data.sample import DepthSample, DepthSource
from spaceclip_plugin.data.sources.depth_list import DepthList
from spaceclip_plugin.data.sources.mixture import shares_of
from spaceclip_plugin.evaluation import get_protocol
from spaceclip_plugin.towers.hosts import load_host
from spaceclip_plugin.training.cache.maker import make_cache
from spaceclip_plugin.training.config.recipe import LIVE, Recipe
from spaceclip_plugin.training.data_order import DataOrder
from spaceclip_plugin.training.features import FeatureSettings, FeatureStream
from spaceclip_plugin.training.live_features import LiveFeatures
from spaceclip_plugin.training.optimizer import HeadOptimizer
from spaceclip_plugin.training.processes import Processes

ROOT = Path(__file__).parents[1]
RECORD = Path(__file__).parent / "results" / "trusted_training.json"
KILLS = 200
IMAGES, EARLY = 10_000, 1_000
EPOCHS = 8
SPEED_IMAGES, STEPS, ROUNDS = 64, 8, 7
FEATURES = ("fp16", "int8", "none")
MB = 1e6


class NoiseSamples:
    """Images and depth of noise, made when asked for: nothing but the cache can hold on to them."""

    def __len__(self) -> int:
        return IMAGES

    def __getitem__(self, index: int) -> DepthSample:
        """Noise, the same for an index."""
        noise = np.random.default_rng(index)
        image = noise.integers(0, 256, (224, 224, 3), dtype=np.uint8)
        return DepthSample(image, noise.uniform(1, 9, (224, 224)).astype(np.float32), f"noise {index}")


class FirstOf:
    """The first samples of a source."""

    def __init__(self, source: DepthSource, count: int) -> None:
        self._source, self._count = source, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> DepthSample:
        """That of the source."""
        return self._source[index]


def kills(_: argparse.Namespace) -> dict[str, Any]:
    """Kill a process that saves checkpoints, again and again, and read the newest each time."""
    script = ROOT / "tests" / "training" / "run" / "killed_writer.py"
    done = subprocess.run([sys.executable, str(script), "--kills", str(KILLS)], stdout=subprocess.PIPE, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def memory(_: argparse.Namespace) -> dict[str, Any]:
    """Peak memory of this process when 1,000 images are cached, and when 10,000 are."""
    host = load_host(HOST[1], weights="random")
    peaks: dict[int, int] = {}
    done = 0

    def progress(images: int) -> None:
        nonlocal done
        done += images
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
        peaks.update({count: peak for count in (EARLY, IMAGES) if count <= done and count not in peaks})

    settings = FeatureSettings(
        protocol=get_protocol("whole-image"),
        versions=1,
        augmentation=Augmentation.named("recommended"),
        seed=0,
        storage="fp16",
        targets=True,
    )
    with tempfile.TemporaryDirectory() as folder, attach_depth_head(host, DepthHead.for_tower(host)) as depth:
        make_cache(
            depth,
            NoiseSamples(),
            Path(folder),
            key="noise",
            settings=settings,
            processes=Processes(torch.device("cpu")),
            progress=progress,
        )
        size = sum(path.stat().st_size for path in Path(folder).iterdir())
    return {
        "images": IMAGES,
        "cache_bytes": size,
        "peak_bytes_at_1000": peaks[EARLY],
        "peak_bytes_at_10000": peaks[IMAGES],
        "growth_bytes": peaks[IMAGES] - peaks[EARLY],
    }


def cached(args: argparse.Namespace) -> dict[str, Any]:
    """Train on features kept in either way, and on live ones; score every head with the live host."""
    found: dict[str, Any] = {}
    host = [*HOST, "--host-weights", str(args.weights)]
    for features in FEATURES:
        folder = args.runs / f"features-{features}"
        lists = ["--data", str(args.nyu / TRAIN), "--val", str(args.nyu / VAL)]
        words = [*host, *lists, "--out", str(folder), "--epochs", str(EPOCHS), "--features", features]
        trained = call("train", *words)
        scored = call("eval", *host, "--head", str(folder / "head"), "--data", str(args.nyu / VAL))
        found[features] = {
            "abs_rel": trained["validation"]["abs_rel"],
            "abs_rel_live_host": scored["abs_rel"],
            "seconds_caching": trained["seconds_caching"],
            "seconds_training": trained["seconds_training"],
            "epochs": EPOCHS,
        }
    return found


def speed(args: argparse.Namespace) -> dict[str, Any]:
    """Steps per second of the recommended recipe, each way in turn, in one process."""
    host = load_host(HOST[1], weights=args.weights)
    protocol = get_protocol("nyu-eigen")
    samples = DepthList(args.nyu / TRAIN, units_per_metre=protocol.depth_scale)
    chosen = FirstOf(samples, SPEED_IMAGES)  # read from its files each time, as in a run
    times: dict[str, list[float]] = {features: [] for features in FEATURES}
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        steps = {
            features: stack.enter_context(_steps(host, chosen, Path(folder) / features, features))
            for features in FEATURES
        }
        for one in steps.values():
            next(one)
        for turn in range(ROUNDS):
            for place in turn_order(len(FEATURES), turn):
                began = time.perf_counter()
                for _ in range(STEPS):
                    next(steps[FEATURES[place]])
                times[FEATURES[place]].append((time.perf_counter() - began) / STEPS)
    live = np.array(times["none"])
    found: dict[str, Any] = {"seconds_per_step": {name: float(np.median(times[name])) for name in FEATURES}}
    for features in ("fp16", "int8"):
        low, middle, high = np.quantile(live / np.array(times[features]), (0.25, 0.5, 0.75))
        found[features] = {"ratio_median": float(middle), "ratio_quartiles": [float(low), float(high)]}
    return found


@contextlib.contextmanager
def _steps(host: nn.Module, samples: DepthSource, folder: Path, features: str) -> Iterator[Iterator[float]]:
    """Endless steps of the default head on features of that kind."""
    recipe = Recipe(cache=features)
    head = DepthHead.for_tower(host)
    processes = Processes(torch.device("cpu"))
    settings = FeatureSettings(
        protocol=get_protocol("nyu-eigen"),
        versions=recipe.views,
        augmentation=Augmentation.named(recipe.augmentation),
        seed=0,
        storage=features,
        targets=True,
        target_side=recipe.target_side,
    )
    with attach_depth_head(host, head) as depth:
        stream: FeatureStream
        if features == LIVE:
            stream = LiveFeatures(depth, samples, settings=settings)
        else:
            stream = make_cache(
                depth,
                samples,
                folder,
                key=features,
                settings=settings,
                processes=processes,
            )
        order = DataOrder(
            shares_of(samples),
            batch_size=recipe.batch_size,
            accumulation=1,
            versions=recipe.views,
            seed=0,
        )
        optimizer = HeadOptimizer(head, recipe, stream, order=order, processes=processes)
        yield (loss for epoch in itertools.count() for loss in optimizer.epoch(epoch))


def table(record: dict[str, Any]) -> str:
    """The figures as benchmarks/README.md shows them."""
    killed, grown, ways, speeds = (record[name]["found"] for name in MEASURES)
    live = ways["none"]
    rows = [
        (
            f"checkpoints unreadable after {killed['kills']} kills −9 of a process that saves them",
            f"{killed['unreadable']} ({killed['temporaries_left']} kills hit in the middle of writing)",
        ),
        (
            f"peak memory, features of {IMAGES:,} images cached against {EARLY:,}",
            f"+{grown['growth_bytes'] / MB:.0f} MB of {grown['peak_bytes_at_1000'] / MB:.0f} MB "
            f"(cache {grown['cache_bytes'] / 1e9:.1f} GB)",
        ),
    ]
    for name in ("fp16", "int8"):
        way = ways[name]
        rows += [
            (
                f"validation AbsRel of a head, features cached as {name} against its live host",
                f"{way['abs_rel']:.4f} / {way['abs_rel_live_host']:.4f}",
            ),
            (
                f"validation AbsRel after {EPOCHS} epochs on features cached as {name} against live ones",
                f"{way['abs_rel']:.4f} / {live['abs_rel']:.4f}",
            ),
            (
                f"steps per second on features cached as {name} / on live ones, {record['speed']['threads']} threads",
                f"{speeds[name]['ratio_median']:.1f} ({speeds[name]['ratio_quartiles'][0]:.1f} to "
                f"{speeds[name]['ratio_quartiles'][1]:.1f})",
            ),
        ]
    return "\n".join(["| What | Measured |", "|---|---|", *(f"| {what} | {value} |" for what, value in rows)])


MEASURES = {"kills": kills, "memory": memory, "cached": cached, "speed": speed}


def parser_of(description: str | None, parts: Collection[str]) -> argparse.ArgumentParser:
    """What benchmarks of training on NYU take: the part to measure and what that needs, or --table."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", nargs="?", choices=tuple(parts))
    parser.add_argument("--nyu", type=Path)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--runs", type=Path)
    parser.add_argument("--table", action="store_true")
    return parser


def main() -> None:
    """Measure one thing and put it into the record, or print the record as a table."""
    parser = parser_of(__doc__, MEASURES)
    args = parser.parse_args()
    if args.table:
        print(table(read_json_object(RECORD)))
        return
    needed = {"cached": (args.nyu, args.weights, args.runs), "speed": (args.nyu, args.weights)}
    if args.part is None or None in needed.get(args.part, ()):
        parser.error("say what to measure; cached needs --nyu, --weights and --runs, speed --nyu and --weights")
    found = MEASURES[args.part](args)
    machine = {"python": platform.python_version(), "torch": torch.__version__, "threads": torch.get_num_threads()}
    record = read_json_object(RECORD) if RECORD.is_file() else {}
    write_json(RECORD, {**record, args.part: {"found": found, **machine}})


if __name__ == "__main__":
    main()
