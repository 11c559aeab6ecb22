"""Training steps: the published way, which runs the tower in every step, and the package's, from cached features.

The published way has this package's SSIM, several times as fast as the published code's: ratios to it say too little
rather than too much. Neither way reads image files.
"""

from __future__ import annotations

import dataclasses
import gc
import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from attached import Attached
from torch import nn
from turns import turn_order

from spaceclip_plugin import DepthHead, attach_depth_head
from spaceclip_plugin._digest import module_digest
from spaceclip_plugin.data.augmentation import Augmentation
from spaceclip_plugin.data.sample import DepthSample
from spaceclip_plugin.data.sources.mixture import shares_of
from spaceclip_plugin.evaluation import get_protocol
from spaceclip_plugin.head.architectures import DEFAULT_ARCHITECTURE
from spaceclip_plugin.training.cache.maker import make_cache
from spaceclip_plugin.training.config.recipe import RECIPES, Recipe
from spaceclip_plugin.training.data_order import DataOrder
from spaceclip_plugin.training.features import FeatureSettings
from spaceclip_plugin.training.losses import LOSSES
from spaceclip_plugin.training.optimizer import HeadOptimizer
from spaceclip_plugin.training.processes import Processes

PUBLISHED = "space-clip"
RECOMPUTED = "training: tower in every step, published decoder and loss"
CACHED_PUBLISHED = "training: cached features, published decoder and loss"
CACHED_NEW = "training: cached features, default head and recipe"
TARGET_HW = (352, 704)
PROTOCOL = get_protocol("spaceclip-kitti")  # it resizes depth to that size


@dataclass(frozen=True)
class Way:
    """A way to train; `step` is one step, and `repeats` of them are timed together."""

    name: str
    step: Callable[[], object]
    repeats: int


class NoiseSamples:
    """Images and depth without any content, which costs as much as with."""

    def __init__(self, count: int, side: int) -> None:
        self._count, self._side = count, side

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> DepthSample:
        """Noise, the same for an index."""
        noise = np.random.default_rng(index)
        image = noise.integers(0, 256, (self._side, self._side, 3), dtype=np.uint8)
        return DepthSample(image, noise.uniform(1, 60, TARGET_HW).astype(np.float32), f"noise {index}")


def ways(host: nn.Module, side: int, folder: Path, *, images: int, batch: int, repeats: int) -> list[Way]:
    """The three ways on a host in eval mode; the cheap one is repeated that often.

    Args:
        host: the frozen host, on its device.
        side: of its images, in pixels.
        folder: where features are cached.
        images: that are cached, in as many versions as the recipes say.
        batch: images per step.
        repeats: steps of the default head that are timed together.
    """
    published = dataclasses.replace(RECIPES["published"], batch_size=batch, epochs=1000)
    recommended = dataclasses.replace(Recipe(), batch_size=batch, epochs=1000)
    samples = NoiseSamples(images, side)
    return [
        Way(RECOMPUTED, recomputing(host, side, published), 1),
        Way(CACHED_PUBLISHED, from_cache(host, PUBLISHED, published, samples, folder / "published"), 1),
        Way(CACHED_NEW, from_cache(host, DEFAULT_ARCHITECTURE, recommended, samples, folder / "new"), repeats),
    ]


def recomputing(host: nn.Module, side: int, recipe: Recipe) -> Callable[[], object]:
    """Steps that run the frozen tower, then decoder forward and backward, then AdamW."""
    weight = next(host.parameters())
    head = DepthHead.for_tower(host, architecture=PUBLISHED).to(weight.device).train()
    tower = Attached(host, head)
    optimizer = torch.optim.AdamW(head.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    loss = LOSSES[recipe.loss]()
    batches = itertools.cycle([torch.randn(recipe.batch_size, 3, side, side).to(weight) for _ in range(2)])
    target_m = torch.empty(recipe.batch_size, *TARGET_HW, device=weight.device).uniform_(1, 60)

    def step() -> object:
        output = head(tower.features(next(batches)), auxiliary=True)
        value = loss(output, target_m, valid=target_m > 0)
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        optimizer.step()
        return value

    return step


def from_cache(
    host: nn.Module, architecture: str, recipe: Recipe, samples: NoiseSamples, folder: Path
) -> Callable[[], object]:
    """Steps of the package's own optimizer on features that are cached here."""
    head = DepthHead.for_tower(host, architecture=architecture).to(next(host.parameters()).device)
    processes = Processes(next(host.parameters()).device)
    settings = FeatureSettings(
        protocol=PROTOCOL,
        versions=recipe.views,
        augmentation=Augmentation.named(recipe.augmentation),
        seed=recipe.seed,
        storage=recipe.cache,
        targets=True,
        target_side=recipe.target_side,
    )
    with attach_depth_head(host, head) as depth:
        cached = make_cache(
            depth,
            samples,
            folder,
            key=module_digest(host),
            settings=settings,
            processes=processes,
        )
    order = DataOrder(
        shares_of(samples),
        batch_size=recipe.batch_size,
        accumulation=recipe.accumulation,
        versions=recipe.views,
        seed=recipe.seed,
    )
    optimizer = HeadOptimizer(head, recipe, cached, order=order, processes=processes)

    def steps() -> Iterator[float]:
        for epoch in itertools.count():
            yield from optimizer.epoch(epoch)

    endless = steps()
    return lambda: next(endless)


def timed_steps(chosen: list[Way], rounds: int, device: torch.device) -> dict[str, list[float]]:
    """Milliseconds per step in every round, by way."""
    times: dict[str, list[float]] = {way.name: [] for way in chosen}
    for way in chosen:
        way.step()
    for turn in range(rounds):
        gc.collect()
        for place in turn_order(len(chosen), turn):
            way = chosen[place]
            _finish(device)
            began = time.perf_counter()
            for _ in range(way.repeats):
                way.step()
            _finish(device)
            times[way.name].append(1e3 * (time.perf_counter() - began) / way.repeats)
    return times


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()
