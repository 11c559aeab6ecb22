"""How long it takes from a list of photos to a trained head, and what of the caching of features takes it.

    python benchmarks/caching.py time --nyu DIR --weights deit_tiny_timm.safetensors
    python benchmarks/caching.py before --nyu DIR --weights deit_tiny_timm.safetensors
    python benchmarks/caching.py heads --nyu DIR --weights deit_tiny_timm.safetensors --runs DIR
    python benchmarks/caching.py --table    (the table of benchmarks/README.md, from the record)

`time` caches the first photos of a list in four versions each, with the tower in its own precision and in bfloat16, in
turn; then it times training steps on what was cached. Each number of threads has its place in the record
(OMP_NUM_THREADS; on two, a process reads ahead, too). `before` does the first of that alone, for the code that it is
run with: an earlier one by PYTHONPATH. `heads` trains on both kinds of features and scores the heads with the live
tower in its own precision. Time on an idle machine, an earlier code right before or after.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import itertools
import json
import os
import platform
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from nyu_heads import HOST, TRAIN, VAL, call
from torch import nn
from trusted_training import FirstOf, parser_of

from spaceclip_plugin import DepthHead, attach_depth_head
from spaceclip_plugin._files import read_json_object, write_json
from spaceclip_plugin.attach import DepthAttachment
from spaceclip_plugin.data.augmentation import Augmentation
from spaceclip_plugin.data.sources.depth_list import DepthList
from spaceclip_plugin.data.sources.mixture import shares_of
from spaceclip_plugin.data.version import Version
from spaceclip_plugin.evaluation import get_protocol
from spaceclip_plugin.towers.hosts import load_host
from spaceclip_plugin.training.cache import maker
from spaceclip_plugin.training.cache.feature_cache import FeatureCache
from spaceclip_plugin.training.config.recipe import Recipe
from spaceclip_plugin.training.data_order import DataOrder
from spaceclip_plugin.training.features import FeatureSettings
from spaceclip_plugin.training.optimizer import HeadOptimizer
from spaceclip_plugin.training.processes import Processes

RECORD = Path(__file__).parent / "results" / "caching.json"
OWN, BF16 = "own", "bf16"
RECIPE = Recipe(precision="bf16")
IMAGES, ROUNDS, STEPS, EPOCHS = 48, 3, 12, 6
NYU_IMAGES, MANY_IMAGES = 695, 10_000
CPU = torch.device("cpu")
STAGES = {
    "decoding photo and depth": [(FirstOf, "__getitem__")],
    "cropping and recolouring": [(Version, "image")],
    "resizing and normalising": [(FeatureSettings, "pixels")],
    "the protocol's depth": [(FeatureSettings, "image"), (FeatureSettings, "depth_m")],
    "the tower": [(DepthAttachment, "refresh")],
    "rounding to float16": [(maker, "packed")],
    "digesting and writing": [(maker, "write_shard")],
}
REST = "all else"


class Stages:
    """CPU seconds of this process by stage; what one stage calls of another counts as the other's."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._running = [REST]
        self._since = time.process_time()

    def _turn(self) -> None:
        now = time.process_time()
        self.seconds[self._running[-1]] += now - self._since
        self._since = now

    def timed(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """The function, its time put down under that name."""

        @functools.wraps(call)
        def run(*args: Any, **options: Any) -> Any:
            self._turn()
            self._running.append(name)
            try:
                return call(*args, **options)
            finally:
                self._turn()
                self._running.pop()

        return run

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """All stages are timed within the block."""
        replaced = [(owner, word, getattr(owner, word)) for places in STAGES.values() for owner, word in places]
        for name, places in STAGES.items():
            for owner, word in places:
                setattr(owner, word, self.timed(name, getattr(owner, word)))
        self._since = time.process_time()
        try:
            yield
            self._turn()
        finally:
            for owner, word, call in replaced:
                setattr(owner, word, call)


class Caching:
    """Caches the first photos of a list, as a run of the recommended recipe does."""

    def __init__(self, args: argparse.Namespace, folder: Path) -> None:
        self._host: nn.Module = load_host(HOST[1], weights=args.weights).eval()
        self._head = DepthHead.for_tower(self._host)
        self._protocol = get_protocol("nyu-eigen")
        photos = DepthList(args.nyu / TRAIN, units_per_metre=self._protocol.depth_scale)
        self._source, self._folder, self._made = FirstOf(photos, IMAGES), folder, itertools.count()

    def make(self, precision: str, workers: int) -> FeatureCache:
        """A new cache."""
        settings = FeatureSettings(
            protocol=self._protocol,
            versions=RECIPE.views,
            augmentation=Augmentation.named(RECIPE.augmentation),
            seed=RECIPE.seed,
            storage=RECIPE.cache,
            targets=True,
            target_side=RECIPE.target_side,
            **({} if precision == OWN else {"tower_precision": precision}),  # earlier code has no such setting
        )
        folder, processes = self._folder / str(next(self._made)), Processes(CPU, workers=workers)
        with attach_depth_head(self._host, self._head) as attachment:
            settings = dataclasses.replace(settings, preparation=attachment.preparation)
            return maker.make_cache(attachment, self._source, folder, key="k", settings=settings, processes=processes)

    def seconds(self, precision: str, workers: int) -> tuple[float, float]:
        """(wall, CPU) seconds that a new cache takes, worker processes counted in."""
        began, before = time.perf_counter(), sum(os.times()[:4])
        self.make(precision, workers)
        return time.perf_counter() - began, sum(os.times()[:4]) - before

    def shares(self, precision: str) -> dict[str, float]:
        """Shares of the CPU seconds by stage."""
        stages = Stages()
        with stages.watching():
            self.make(precision, 0)
        whole = sum(stages.seconds.values())
        return {name: stages.seconds[name] / whole for name in (*STAGES, REST)}

    def seconds_per_step(self, cache: FeatureCache) -> float:
        """Of training the default head on what was cached."""
        order = DataOrder(shares_of(self._source), RECIPE.batch_size, 1, cache.versions, RECIPE.seed)
        optimizer = HeadOptimizer(self._head, RECIPE, cache, order=order, processes=Processes(CPU))
        steps = (loss for epoch in itertools.count() for loss in optimizer.epoch(epoch))
        next(steps)
        began = time.perf_counter()
        for _ in range(STEPS):
            next(steps)
        return (time.perf_counter() - began) / STEPS


def timed(caching: Caching, precisions: Sequence[str]) -> dict[str, Any]:
    """Images per second and CPU seconds per view of every way to cache them, each in turn."""
    ways = [(precision, workers) for workers in range(torch.get_num_threads()) for precision in precisions]
    found: dict[tuple[str, int], list[tuple[float, float]]] = {way: [] for way in ways}
    for _ in range(ROUNDS):
        for way in ways:
            found[way].append(caching.seconds(*way))
    return {
        f"{precision}, {workers} workers": {
            "images_per_second": IMAGES / statistics.median(wall for wall, _ in found[precision, workers]),
            "cpu_seconds_per_view": statistics.median(cpu for _, cpu in found[precision, workers])
            / (IMAGES * RECIPE.views),
        }
        for precision, workers in ways
    }


def measured(args: argparse.Namespace) -> dict[str, Any]:
    """Every way to cache, what takes the time, and training steps."""
    with tempfile.TemporaryDirectory() as folder:
        caching = Caching(args, Path(folder))
        return {
            "ways": timed(caching, (OWN, BF16)),
            "shares": {precision: caching.shares(precision) for precision in (OWN, BF16)},
            "seconds_per_step": caching.seconds_per_step(caching.make(BF16, 0)),
        }


def measured_before(args: argparse.Namespace) -> dict[str, Any]:
    """The ways of a code whose tower has its own precision alone."""
    with tempfile.TemporaryDirectory() as folder:
        return {"ways": timed(Caching(args, Path(folder)), (OWN,))}


def heads(args: argparse.Namespace) -> dict[str, Any]:
    """Train on the features of either precision, and score with the live tower."""
    found = {}
    host = [*HOST, "--host-weights", str(args.weights)]
    for precision in (OWN, BF16):
        folder = args.runs / precision
        if not (folder / "run.json").is_file():
            lists = ["--data", str(args.nyu / TRAIN), "--val", str(args.nyu / VAL)]
            words = ["--precision", RECIPE.precision, "--epochs", str(EPOCHS), "--tower-precision", precision]
            call("train", *host, *lists, "--out", str(folder), *words)
        scored = call("eval", *host, "--head", str(folder / "head"), "--data", str(args.nyu / VAL))
        recipe = json.loads((folder / "run.json").read_text())["recipe"]
        if (recipe["tower_precision"], recipe["epochs"]) != (precision, EPOCHS):
            raise SystemExit(f"{folder.name} holds another run; remove it to train this one")
        found[precision] = {"abs_rel": scored["abs_rel"], "recipe": recipe}
    return found


def table(record: dict[str, Any]) -> str:
    """The figures as benchmarks/README.md shows them."""
    counts = sorted(record["time"])
    rows = {f"{RECIPE.views} versions of each of {IMAGES} photos, 480x640": [_threads(count) for count in counts]}
    for workers in range(max(map(int, counts))):
        told = ", a process reading ahead" if workers else ""
        for part, precision, title in WAYS:
            cells = [_speed(record, part, count, f"{precision}, {workers} workers") for count in counts]
            rows[f"{title}{told}: photos a second (CPU ms a version)"] = cells
    for stage in (*STAGES, REST):
        shares = [[record["time"][count]["shares"][kind][stage] for kind in (OWN, BF16)] for count in counts]
        rows[f"{stage}, share of CPU time, tower in float32 / bfloat16"] = [
            " / ".join(f"{100 * share:.0f} %" for share in pair) for pair in shares
        ]
    for images in (NYU_IMAGES, MANY_IMAGES):
        title = (
            f"{images:,} photos, {RECIPE.epochs} epochs, extrapolated: seconds of caching before / now / in bfloat16"
        )
        rows[f"{title} + of training"] = [_whole(record, count, images) for count in counts]
    scored = " / ".join(f"{record['heads'][precision]['abs_rel']:.4f}" for precision in (OWN, BF16))
    title = f"AbsRel after {EPOCHS} epochs on either's features, 100 validation images, one seed, float32 tower"
    rows[title] = [scored, *["–"] * (len(counts) - 1)]
    lines = [f"| {' | '.join([title, *cells])} |" for title, cells in rows.items()]
    return "\n".join([lines[0], "|---|" + "---|" * len(counts), *lines[1:]])


WAYS = (
    ("before", OWN, "before"),
    ("time", OWN, "now, the same bits"),
    ("time", BF16, "`--tower-precision bf16`"),
)


def _threads(count: str) -> str:
    return "1 thread" if count == "1" else f"{count} threads"


def _speed(record: dict[str, Any], part: str, count: str, way: str) -> str:
    found = record[part].get(count, {"ways": {}})["ways"].get(way)
    if found is None:
        return "–"
    return f"{found['images_per_second']:.1f} ({1e3 * found['cpu_seconds_per_view']:.1f})"


def _whole(record: dict[str, Any], count: str, images: int) -> str:
    """Seconds, as the fastest way of each kind and the timed steps tell."""
    caching = []
    for part, precision, _ in WAYS:
        ways = record[part][count]["ways"]
        fastest = max(way["images_per_second"] for name, way in ways.items() if name.startswith(precision))
        caching.append(f"{images / fastest:,.0f}")
    steps = RECIPE.epochs * -(-images // RECIPE.batch_size)
    return f"{' / '.join(caching)} + {steps * record['time'][count]['seconds_per_step']:,.0f}"


PARTS = {"time": measured, "before": measured_before, "heads": heads}


def main() -> None:
    """Measure one part and put it into the record, or print the record as a table."""
    parser = parser_of(__doc__, PARTS)
    args = parser.parse_args()
    if args.table:
        print(table(read_json_object(RECORD)))
        return
    if args.part is None or None in (args.nyu, args.weights) or (args.part == "heads" and args.runs is None):
        parser.error("say what to measure, --nyu and --weights; heads needs --runs, too")
    found = PARTS[args.part](args)
    record = read_json_object(RECORD) if RECORD.is_file() else {}
    if args.part != "heads":
        found = {**record.get(args.part, {}), str(torch.get_num_threads()): found}
    machine = f"{platform.machine()}, torch {torch.__version__}"
    write_json(RECORD, {**record, "machine": machine, args.part: found})


if __name__ == "__main__":
    main()
