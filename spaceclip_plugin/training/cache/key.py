"""What cached features depend on, in one digest: a cache of anything else is never read."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass

from spaceclip_plugin._digest import sha256_of
from spaceclip_plugin.data.augmentation import Augmentation
from spaceclip_plugin.data.preparation import PREPARATION
from spaceclip_plugin.evaluation.protocol import Protocol
from spaceclip_plugin.towers.spec import TowerSpec

FORMAT = 1
_FIXED_VIEWS = 2


@dataclass(frozen=True)
class CacheSettings:
    """How a cache is made.

    Attributes:
        protocol: what part of an image the host sees.
        views: versions of every image.
        augmentation: what they differ in.
        seed: of the random ones.
        storage: a name in `STORAGES`.
        targets: whether depth is kept too.
    """

    protocol: Protocol
    views: int
    augmentation: Augmentation
    seed: int
    storage: str
    targets: bool


def cache_key(
    settings: CacheSettings,
    *,
    tower: TowerSpec,
    weights: str,
    taps: Sequence[int],
    context: bool,
    fingerprints: Sequence[str],
) -> str:
    """SHA-256 (hex) over everything that a cached value depends on.

    Args:
        settings: how the cache is made.
        tower: whose features they are; its place in the host does not count.
        weights: digest of the tower's parameters and buffers.
        taps: hidden states that are kept.
        context: whether the tower's global vector is kept, too.
        fingerprints: of every sample, in order.
    """
    protocol = dataclasses.asdict(settings.protocol)
    spec = dataclasses.asdict(tower)
    for values, ignored in ((protocol, ("name", "description", "region", "median_range_m")), (spec, ("path",))):
        for name in ignored:
            values.pop(name, None)
    random_views = settings.views > _FIXED_VIEWS or not settings.augmentation.mirror
    parts = {
        "format": FORMAT,
        "preparation": PREPARATION,
        "tower": spec,
        "weights": weights,
        "taps": list(taps),
        "context": context,
        "protocol": protocol,
        "views": settings.views,
        "augmentation": dataclasses.asdict(settings.augmentation) if random_views else None,
        "seed": settings.seed if random_views else None,
        "storage": settings.storage,
        "targets": settings.targets,
    }
    return sha256_of(json.dumps(parts, sort_keys=True), *fingerprints)
