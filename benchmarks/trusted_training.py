"""What stands behind the promises of training: kills survived, cached against live features, memory while caching.

    python benchmarks/trusted_training.py kills                      200 kills -9 of a process that saves checkpoints
    python benchmarks/trusted_training.py memory                     features of 10,000 images, peak memory on the way
    python benchmarks/trusted_training.py cached --nyu DIR --weights deit_tiny_timm.safetensors --runs DIR
    python benchmarks/trusted_training.py --table                    (the table of README, from the record)

`cached` trains one head three times, on features kept as float16, as int8, and made by the tower at every step, and
then scores each head with the live host. The tower is an ImageNet-supervised ViT (DeiT-Tiny), not CLIP; the depth is
the 8-bit in-filled NYU labelled set.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nyu_heads import HOST, TRAIN, VAL, call

from spaceclip_plugin import DepthHead, attach_depth_head
from spaceclip_plugin.data.augmentation import augmentation
from spaceclip_plugin.data.sample import DepthSample
from spaceclip_plugin.evaluation.protocols import get_protocol
from spaceclip_plugin.files import read_json_object, write_json
from spaceclip_plugin.hosts import load_host
from spaceclip_plugin.training.cache_key import CacheSettings
from spaceclip_plugin.training.cache_maker import make_cache
from spaceclip_plugin.training.processes import Processes

ROOT = Path(__file__).parents[1]
RECORD = Path(__file__).parent / "results" / "trusted_training.json"
KILLS = 200
IMAGES, EARLY = 10_000, 1_000
EPOCHS = 8
FEATURES = ("fp16", "int8", "none")
MB = 1 << 20


class NoiseSamples:
    """Images and depth of noise, made when asked for: nothing but the cache can hold on to them."""

    def __len__(self) -> int:
        return IMAGES

    def __getitem__(self, index: int) -> DepthSample:
        """Noise, the same for an index."""
        noise = np.random.default_rng(index)
        image = noise.integers(0, 256, (224, 224, 3), dtype=np.uint8)
        return DepthSample(image, noise.uniform(1, 9, (224, 224)).astype(np.float32), f"noise {index}")


def kills(_: argparse.Namespace) -> dict[str, Any]:
    """Kill a process that saves checkpoints, again and again, and read the newest each time."""
    script = ROOT / "tests" / "training" / "killed_writer.py"
    done = subprocess.run([sys.executable, str(script), "--kills", str(KILLS)], stdout=subprocess.PIPE, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def memory(_: argparse.Namespace) -> dict[str, Any]:
    """Peak memory of this process when 1,000 images are cached, and when 10,000 are."""
    host = load_host(HOST[1])
    peaks: dict[int, int] = {}
    done = 0

    def progress(images: int) -> None:
        nonlocal done
        done += images
        if done in (EARLY, IMAGES):
            peaks[done] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10

    settings = CacheSettings(
        protocol=get_protocol("whole-image"),
        views=1,
        augmentation=augmentation("recommended"),
        seed=0,
        storage="fp16",
        targets=True,
    )
    with tempfile.TemporaryDirectory() as folder, attach_depth_head(host, DepthHead.for_tower(host)) as depth:
        make_cache(
            depth,
            NoiseSamples(),
            Path(folder),
            settings=settings,
            weights="random",
            fingerprints=[str(i) for i in range(IMAGES)],
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
        epochs = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        record = json.loads((folder / "run.json").read_text())
        steps = EPOCHS * -(-record["train_images"] // record["recipe"]["batch_size"])
        scored = call("eval", *host, "--head", str(folder / "head"), "--data", str(args.nyu / VAL))
        found[features] = {
            "abs_rel": trained["validation"]["abs_rel"],
            "abs_rel_live_host": scored["abs_rel"],
            "steps_per_second": steps / sum(epoch["seconds"] for epoch in epochs),
            "seconds_caching": trained["seconds_caching"],
            "seconds_training": trained["seconds_training"],
            "epochs": EPOCHS,
        }
    return found


def table(record: dict[str, Any]) -> str:
    """The figures as the README shows them."""
    killed, grown, ways = (record[name]["found"] for name in ("kills", "memory", "cached"))
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
                f"steps per second, {name} / live",
                f"{way['steps_per_second'] / live['steps_per_second']:.1f}",
            ),
        ]
    return "\n".join(["| What | Measured |", "|---|---|", *(f"| {what} | {value} |" for what, value in rows)])


MEASURES = {"kills": kills, "memory": memory, "cached": cached}


def main() -> None:
    """Measure one thing and put it into the record, or print the record as a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("measure", nargs="?", choices=tuple(MEASURES))
    parser.add_argument("--nyu", type=Path)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--runs", type=Path)
    parser.add_argument("--table", action="store_true")
    args = parser.parse_args()
    if args.table:
        print(table(read_json_object(RECORD)))
        return
    if args.measure is None or (args.measure == "cached" and None in (args.nyu, args.weights, args.runs)):
        parser.error("say what to measure; cached needs --nyu, --weights and --runs")
    found = MEASURES[args.measure](args)
    machine = {"python": platform.python_version(), "torch": torch.__version__, "threads": torch.get_num_threads()}
    record = read_json_object(RECORD) if RECORD.is_file() else {}
    write_json(RECORD, {**record, args.measure: {"found": found, **machine}})


if __name__ == "__main__":
    main()
