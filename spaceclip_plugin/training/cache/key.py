"""What cached features depend on, in one digest: a cache of anything else is never read."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence

from spaceclip_plugin._digest import sha256_of
from spaceclip_plugin.towers import TowerSpec
from spaceclip_plugin.training.features import FeatureSettings
from spaceclip_plugin.training.tower_precision import OWN

FORMAT = 1
_FIXED_VERSIONS = 2


def cache_key(
    settings: FeatureSettings,  # its `target_side` only matters when a cache is read
    *,
    tower: TowerSpec,
    weights: str,  # digest of the tower's parameters and buffers
    taps: Sequence[int],
    context: bool,  # whether the tower's global vector is kept, too
    pixels: bool,  # whether its images are
    fingerprints: Sequence[str],  # of every sample, in order
) -> str:
    """SHA-256 (hex) over everything that a cached value depends on."""
    ignored = ("name", "description", "region", "median_range_m")
    protocol = {name: value for name, value in dataclasses.asdict(settings.protocol).items() if name not in ignored}
    spec = {name: value for name, value in dataclasses.asdict(tower).items() if name != "path"}
    random = settings.versions > _FIXED_VERSIONS or not settings.augmentation.mirror
    parts = {
        "format": FORMAT,
        "preparation": settings.preparation_name,
        "tower": spec,
        "weights": weights,
        "taps": list(taps),
        "context": context,
        "protocol": protocol,
        "views": settings.versions,
        "augmentation": dataclasses.asdict(settings.augmentation) if random else None,
        "seed": settings.seed if random else None,
        "storage": settings.storage,
        "targets": settings.targets,
    }
    if settings.tower_precision != OWN:
        parts["tower_precision"] = settings.tower_precision
    if pixels:
        parts["pixels"] = "uint8"
    if settings.camera is not None and not settings.camera.assumed:  # the depth that is kept is of that camera
        parts["camera"] = dataclasses.asdict(settings.camera)
    return sha256_of(json.dumps(parts, sort_keys=True), *fingerprints)
