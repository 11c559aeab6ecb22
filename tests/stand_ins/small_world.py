"""A tiny frozen host, a head for it and rendered scenes: enough of a world to train in a second."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import timm
import torch
from fresh_heads import fresh_head
from torch import nn

from spaceclip_plugin import DepthHead
from spaceclip_plugin.attach import DepthAttachment
from spaceclip_plugin.data.augmentation import Augmentation
from spaceclip_plugin.data.sample import DepthSample, fingerprint
from spaceclip_plugin.evaluation import Protocol
from spaceclip_plugin.training.cache.feature_cache import FeatureCache
from spaceclip_plugin.training.cache.key import cache_key
from spaceclip_plugin.training.cache.maker import make_cache
from spaceclip_plugin.training.config.recipe import Recipe
from spaceclip_plugin.training.features import FeatureSettings
from spaceclip_plugin.training.processes import Processes
from spaceclip_plugin.training.run.options import RunOptions
from spaceclip_worlds.render.tabletop import TabletopScenes

QUIET = RunOptions(progress=False)
PROTOCOL = Protocol(name="tabletop", description="every pixel", depth_scale=1000.0, max_depth_m=10.0)
SMALL = {
    "architecture": "space-clip",
    "channels": (8, 6),
    "semantic_taps": (2, 1),
    "structural_taps": (0,),
    "film_hidden": 4,
}


def tiny_host() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return timm.create_model(
            "vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=2, num_classes=0
        )


def tiny_head(host: nn.Module, **overrides: object) -> DepthHead:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return fresh_head(host, **{**SMALL, **overrides})


def scenes(count: int, seed: int = 0) -> list[DepthSample]:
    source = TabletopScenes(count, image_hw=(32, 32), seed=seed)
    return [source[i] for i in range(count)]


RESUMED = Recipe(epochs=2, batch_size=4, learning_rate=1e-2, ema_decay=0.9, views=4, target_side=24)


def tiny_mixer(host: nn.Module, **overrides: object) -> DepthHead:
    """A small default head: with dropout, attention and uncertainty."""
    small = {"taps": (0, 2), "channels": (48, 8), "attention": 1, "convolutions": (1, 1), "pixels": 4}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return fresh_head(host, architecture="tap-mixer", **{**small, **overrides})


def settings(**changes: object) -> FeatureSettings:
    """Two versions in float16, with targets."""
    usual = {
        "protocol": PROTOCOL,
        "versions": 2,
        "augmentation": Augmentation.named("recommended"),
        "seed": 0,
        "storage": "fp16",
        "targets": True,
    }
    return FeatureSettings(**{**usual, **changes})


def cached(
    attachment: DepthAttachment,
    samples: Sequence[DepthSample],
    folder: Path,
    *,
    weights: str = "weights",
    keyed: bool = False,
    workers: int = 0,
    progress: Callable[[int], object] | None = None,
    **changes: object,
) -> FeatureCache:
    """A cache made by this process; `changes` are to `settings`, and `keyed` puts it under its key."""
    key = cache_key(
        settings(**changes),
        tower=attachment.tower,
        weights=weights,
        taps=attachment.head.taps,
        context=attachment.head.uses_context,
        pixels=attachment.head.uses_pixels,
        fingerprints=[fingerprint(samples, i) for i in range(len(samples))],
    )
    return make_cache(
        attachment,
        samples,
        folder / key[:16] if keyed else folder,
        key=key,
        settings=settings(**changes),
        processes=Processes(torch.device("cpu"), workers=workers),
        progress=progress,
    )
