"""The frozen tower's features, read from the shards in which they were kept: training then never runs the tower."""

from __future__ import annotations

import bisect
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor

from spaceclip_plugin._files import read_json_object
from spaceclip_plugin.data.preparation import normalised
from spaceclip_plugin.errors import CheckpointError, TrainingError
from spaceclip_plugin.head.familiarity import mean_tokens
from spaceclip_plugin.towers import SeenPart, TowerFeatures, TowerSpec
from spaceclip_plugin.training.cache.shards import CacheShard, unpacked
from spaceclip_plugin.training.cache.storage import STORAGES
from spaceclip_plugin.training.features import Batch, FeatureSettings, Loaded, stacked_targets

INDEX_NAME = "index.json"
OPEN_SHARDS = 64  # at once: each is a memory map and, on most systems, an open file

_TARGET = "target_m"


class FeatureCache:
    """Features and depth of a data source, as `make_cache` wrote them; a `FeatureStream`."""

    def __init__(
        self,
        folder: Path,
        *,
        key: str,
        settings: FeatureSettings,
        taps: Sequence[int],
        tower: TowerSpec,
        seen: SeenPart | None,  # what it read of them; None: all
    ) -> None:
        """Open a complete cache; nothing but its index and first shard is read."""
        self._folder = folder
        self._key = key
        self._settings = settings
        self._taps = tuple(taps)
        self._tower = tower
        self._seen = seen
        self._storage = STORAGES[settings.storage]
        self._files, self._starts, self._count = cache_index(folder, key)
        self._shards: OrderedDict[int, CacheShard] = OrderedDict()
        first = self._shard(0)[0]
        height, width = first.depth_m(0).shape
        # Of a batch, whatever its images' sizes.
        self.target_hw = settings.target_hw((height, width), first.image_hw[0]) if settings.targets else (0, 0)
        self.versions = settings.versions

    def __len__(self) -> int:
        return self._count

    def name(self, index: int) -> str:
        """What an image is called, for messages."""
        shard, row = self._shard(index)
        return shard.names[row]

    def load(self, indices: Sequence[int], versions: Sequence[int]) -> Loaded:
        """Packed features and targets of some images, each in one of its versions."""
        rows, targets = [], []
        for index, number in zip(indices, versions, strict=True):
            shard, row = self._shard(index)
            rows.append(shard.parts(row, number))
            if self.target_hw[0]:
                image_hw = shard.image_hw[row]
                version, depth_m = self._settings.version(number, index=index, image_hw=image_hw), shard.depth_m(row)
                targets.append(self._settings.target(depth_m.numpy(), version, image_hw=image_hw, hw=self.target_hw))
        loaded = {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
        loaded[_TARGET] = stacked_targets(targets, len(rows))
        return loaded

    def decode(self, loaded: Loaded, device: torch.device) -> Batch:
        """Features (float32) and targets of what `load` gave, on `device`."""
        parts = {name: value.to(device, non_blocking=True) for name, value in loaded.items()}
        target_m = parts.pop(_TARGET)
        kept = unpacked(parts, self._taps, self._storage)
        maps = {tap: rearrange(values, "b h w c -> b c h w") for tap, values in kept.hidden.items()}
        pixels = None if kept.pixels is None else normalised(kept.pixels, self._tower)
        features = TowerFeatures(maps, kept.context, self._tower.image_hw, seen=self._seen, pixels=pixels)
        return Batch.of(features, target_m)

    def tokens(self, index: int, *, tap: int, versions: int, device: torch.device) -> Tensor:
        """(V, C) mean tokens of an image; nothing else of it is read."""
        shard, row = self._shard(index)
        parts = {name: value.to(device) for name, value in shard.hidden(row, tap, versions).items()}
        hidden = rearrange(unpacked(parts, [tap], self._storage).hidden[tap], "v h w c -> v c h w")
        shown = self._settings.shown(hidden, index=index, image_hw=shard.image_hw[row], seen=self._seen)
        return mean_tokens(hidden, shown)[0]

    def _shard(self, index: int) -> tuple[CacheShard, int]:
        """The shard that holds an image, and its row there."""
        if not 0 <= index < self._count:
            raise IndexError(f"image {index} of {self._count}")
        number = bisect.bisect_right(self._starts, index) - 1
        shard = self._shards.pop(number, None)
        if shard is None:
            shard = CacheShard(self._folder / self._files[number], key=self._key)
            ends = [*self._starts[1:], self._count]
            shard.check_place(range(self._starts[number], ends[number]))
            while len(self._shards) >= OPEN_SHARDS:
                self._shards.popitem(last=False)
        self._shards[number] = shard  # the newest is last
        return shard, index - self._starts[number]

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_shards": OrderedDict()}  # a worker opens files of its own


def cache_index(folder: Path, key: str) -> tuple[list[str], list[int], int]:
    """File names, first images and number of images of a complete cache; TrainingError if it is of other features."""
    path = folder / INDEX_NAME
    try:
        index = read_json_object(path, max_bytes=1 << 26)
        found, count = str(index["key"]), int(str(index["images"]))
        shards = index["shards"]
        if not isinstance(shards, list) or not shards:
            raise ValueError("it lists no shards")
        files, starts = [str(shard["file"]) for shard in shards], [int(shard["start"]) for shard in shards]
        ends = [*starts[1:], count]
        if starts[0] != 0 or any(start >= end for start, end in zip(starts, ends, strict=True)):
            raise ValueError(f"its shards start at images {starts[:4]}… of {count}")
    except (CheckpointError, KeyError, ValueError, TypeError) as error:
        raise TrainingError(f"there is no complete feature cache in {str(folder)!r}: {error}") from error
    if found != key:
        raise TrainingError(
            f"the feature cache {str(folder)!r} holds features of another host, data or setting "
            f"(key {found[:12]}…, wanted {key[:12]}…); remove it, or give another folder"
        )
    return files, starts, count
