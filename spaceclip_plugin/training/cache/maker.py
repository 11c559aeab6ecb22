"""Run the frozen tower over a data source once, by any number of processes, and keep what the head will read.

Work goes shard by shard. A shard that is there already, and whole, is not made again: a run that was killed while it
cached goes on where it was. The index is written last; a cache without one is not complete.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from filelock import FileLock, Timeout
from torch import Tensor
from torch.utils.data import Dataset

from spaceclip_plugin._files import write_json
from spaceclip_plugin.attach.attachment import DepthAttachment
from spaceclip_plugin.data.preparation import prepare
from spaceclip_plugin.data.sample import DepthSource
from spaceclip_plugin.errors import CaptureError, DataError, SpaceClipError, TrainingError
from spaceclip_plugin.towers.spec import TowerFeatures, TowerSpec
from spaceclip_plugin.training.cache.feature_cache import INDEX_NAME, FeatureCache, cache_index
from spaceclip_plugin.training.cache.key import CacheSettings, cache_key
from spaceclip_plugin.training.cache.shards import CachedImage, Shard, packed, write_shard
from spaceclip_plugin.training.cache.storage import STORAGES
from spaceclip_plugin.training.processes import Processes
from spaceclip_plugin.training.reading_ahead import read_ahead
from spaceclip_plugin.training.versions import known_depth, seen_image

TOWER_BATCH = 16
"""Images the tower sees at once."""
SHARD_BYTES = 64 << 20
"""About how large a shard is; as much is held in memory while it is made."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CacheEstimate:
    """What a cache will cost, told before it is made.

    Attributes:
        bytes: its size on the disk.
        seconds: time to make it with these processes, as a first image took; reading ahead may make it shorter.
    """

    bytes: int
    seconds: float


def make_cache(
    attachment: DepthAttachment,
    source: DepthSource,
    folder: Path,
    *,
    settings: CacheSettings,
    weights: str,
    fingerprints: list[str],
    processes: Processes,
    target_side: int | None = None,
    workers: int = 0,
    keyed: bool = False,
    progress: Callable[[int], object] | None = None,
) -> FeatureCache:
    """Make a cache, or what is missing of it, and open it.

    Args:
        attachment: the host with the head to train, whose taps are kept.
        source: images and depth; every process has the same.
        folder: where the cache is, or, with `keyed`, the folder of several caches, each under its key.
        settings: what is kept, and how.
        weights: digest of the tower.
        fingerprints: of every sample, in order.
        processes: who works on it.
        target_side: see `FeatureCache`.
        workers: processes that read and prepare images ahead, for each of `processes`.
        keyed: whether `folder` may hold caches of other hosts and data.
        progress: called with the number of images done, over all processes.

    Raises:
        DataError: a sample that cannot be read or scored.
        CaptureError: the tower's activations are not finite; names the image.
        TrainingError: features that cannot be kept, a full disk, a damaged shard, a cache of something else, or a
            worker that was killed.
    """
    if len(source) == 0:
        raise DataError("there are no features to cache: the source is empty")
    tower, taps = attachment.tower, attachment.head.taps
    context = attachment.head.uses_context
    key = cache_key(settings, tower=tower, weights=weights, taps=taps, context=context, fingerprints=fingerprints)
    if keyed:
        folder = folder / key[:16]
    maker = _Maker(attachment, source, folder, settings=settings, key=key, workers=workers)
    lock = FileLock(folder.with_name(f".{folder.name}.lock"))
    processes.on_main(lambda: _acquire(lock, folder))
    try:
        maker.images_per_shard = processes.on_main(lambda: maker.prepare(processes))
        digests = processes.together(lambda: maker.make_share(processes, progress))
        shards = {number: digest for share in processes.gathered(digests) for number, digest in share.items()}
        processes.on_main(lambda: maker.write_index(shards))
    finally:
        lock.release()
    image_hw = (tower.image_hw[0], tower.image_hw[1])
    return FeatureCache(
        folder,
        key=key,
        settings=settings,
        taps=taps,
        image_hw=image_hw,
        seen=attachment.seen(image_hw),
        target_side=target_side,
    )


def _acquire(lock: FileLock, folder: Path) -> None:
    """Lock the cache in `folder`; a run that finds another one making it waits for it."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            _logger.info("another run is making the feature cache %s: waiting for it", folder)
            lock.acquire()
    except OSError as error:
        raise TrainingError(f"cannot make the feature cache {str(folder)!r}: {error}") from error


class _Maker:
    """One cache in the making."""

    def __init__(
        self,
        attachment: DepthAttachment,
        source: DepthSource,
        folder: Path,
        *,
        settings: CacheSettings,
        key: str,
        workers: int,
    ) -> None:
        self._attachment = attachment
        self._source = source
        self._folder = folder
        self._settings = settings
        self._key = key
        self._workers = workers
        self._storage = STORAGES[settings.storage]
        self.images_per_shard = 1

    def prepare(self, processes: Processes) -> int:
        """Make the folder, tell what the cache will cost, and see that the disk has room; returns images per shard."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            for left in self._folder.glob(".*.tmp.safetensors"):  # of a killed process
                left.unlink()
        except OSError as error:
            raise TrainingError(f"cannot make the feature cache {str(self._folder)!r}: {error}") from error
        with contextlib.suppress(TrainingError):
            _, starts, images = cache_index(self._folder, self._key)
            return starts[1] if len(starts) > 1 else images
        for _ in range(2):  # the first call of a tower is slower than all others
            started = time.perf_counter()
            [image] = self._cached(list(self._seen([0], workers=0)))
            seconds = time.perf_counter() - started
        size = sum(part.nbytes for part in image.parts.values()) + image.depth_m.nbytes
        # A resumed cache keeps the shards it has.
        count = self._images_per_existing_shard() or max(1, SHARD_BYTES // size)
        estimate = CacheEstimate(size * len(self._source), seconds * len(self._source) / processes.count)
        try:
            there = sum(path.stat().st_size for path in self._folder.glob("shard-*.safetensors"))
            free = shutil.disk_usage(self._folder).free
        except OSError as error:
            raise TrainingError(f"cannot make the feature cache {str(self._folder)!r}: {error}") from error
        _logger.info(
            "features of %d images in %d versions: %s on the disk, about %.0f s to make%s",
            len(self._source), self._settings.views, _size(estimate.bytes),
            estimate.seconds * max(0.0, 1 - there / max(1, estimate.bytes)),
            f" ({_size(there)} are there already)" if there else "",
        )  # fmt: skip
        if estimate.bytes - there > free:
            raise TrainingError(
                f"the feature cache {str(self._folder)!r} needs {_size(estimate.bytes - there)} and "
                f"{_size(free)} are free; free disk space, choose another folder, keep fewer views of an image "
                "or int8 features, or none at all"
            )
        return count

    def make_share(self, processes: Processes, progress: Callable[[int], object] | None) -> dict[int, str]:
        """Digests of this process's shards, once they are there and whole."""
        starts = range(0, len(self._source), self.images_per_shard)
        digests: dict[int, str] = {}
        missing: list[int] = []
        for number in range(processes.rank, len(starts), processes.count):
            path = self._path(number)
            if path.exists():
                shard = Shard(path, key=self._key)
                shard.verify()
                shard.check_place(self._range(number))
                digests[number] = shard.sha256
                self._advance(progress, len(shard), processes)
            else:
                missing.append(number)
        seen = self._seen([i for number in missing for i in self._range(number)], workers=self._workers)
        for number in missing:
            held: list[CachedImage] = []
            left = len(self._range(number))
            while left > 0:
                together = list(itertools.islice(seen, min(left, self._images_at_once)))
                held += self._cached(together)
                left -= len(together)
                self._advance(progress, len(together), processes)
            digests[number] = write_shard(self._path(number), held, key=self._key, start=starts[number])
        return digests

    def write_index(self, shards: dict[int, str]) -> None:
        """Say that the cache is complete."""
        rows = [
            {"file": self._path(number).name, "start": number * self.images_per_shard, "sha256": shards[number]}
            for number in sorted(shards)
        ]
        try:
            write_json(self._folder / INDEX_NAME, {"key": self._key, "images": len(self._source), "shards": rows})
        except OSError as error:
            raise TrainingError(f"cannot write the feature cache's index: {error}; free disk space") from error

    def _seen(self, indices: list[int], *, workers: int) -> Iterator[_Seen]:
        """Images one after the other, read ahead by the workers."""
        versions = _Versions(self._source, self._settings, self._attachment.tower, indices)
        return read_ahead(versions, workers=workers)

    @property
    def _images_at_once(self) -> int:
        """Images whose versions fill the tower's batch."""
        return max(1, TOWER_BATCH // self._settings.views)

    def _cached(self, images: Sequence[_Seen]) -> list[CachedImage]:
        """Run the tower over all versions of some images."""
        hidden: dict[int, list[Tensor]] = {tap: [] for tap in self._attachment.head.taps}
        contexts: list[Tensor] = []
        for pixels in _chunks(torch.cat([image.pixels for image in images])):
            features = self._features(pixels, images)
            for tap, maps in hidden.items():
                maps.append(rearrange(features.hidden[tap], "v c h w -> v h w c").cpu())
            if features.context is not None:
                contexts.append(features.context.cpu())
        joined = {tap: torch.cat(maps) for tap, maps in hidden.items()}
        context = torch.cat(contexts) if contexts else None
        return [self._packed(image, i, joined, context) for i, image in enumerate(images)]

    def _packed(
        self, image: _Seen, place: int, hidden: Mapping[int, Tensor], context: Tensor | None
    ) -> CachedImage:  # fmt: skip
        """One image's share of a batch, as it is kept."""
        views = self._settings.views
        rows = slice(place * views, (place + 1) * views)
        try:
            parts = packed(
                {tap: maps[rows] for tap, maps in hidden.items()},
                None if context is None else context[rows],
                self._storage,
            )
        except TrainingError as error:
            raise TrainingError(f"{image.name}: {error}") from error
        return CachedImage(image.name, image.image_hw, image.depth_m, parts)

    def _features(self, pixels: Tensor, images: Sequence[_Seen]) -> TowerFeatures:
        """Features of some versions of these images; an error names the image it is about."""
        try:
            self._attachment.refresh(pixels)
            return self._attachment.features()[-1]
        except CaptureError as error:
            if len(images) > 1:  # which one?
                for image in images:
                    self._cached([image])
            names = images[0].name if len(images) == 1 else f"{images[0].name} to {images[-1].name}"
            raise CaptureError(f"{names}: {error}") from error

    def _images_per_existing_shard(self) -> int | None:
        """As the first shard that is there tells; all but the last hold as many images as the first."""
        there = {path.name for path in self._folder.glob("shard-*.safetensors")}
        for number in range(len(self._source) if there else 0):
            if self._path(number).name in there:
                shard = Shard(self._path(number), key=self._key)
                return shard.start // number if number else len(shard)
        return None

    def _path(self, number: int) -> Path:
        return self._folder / f"shard-{number:05}.safetensors"

    def _range(self, number: int) -> range:
        start = number * self.images_per_shard
        return range(start, min(start + self.images_per_shard, len(self._source)))

    @staticmethod
    def _advance(progress: Callable[[int], object] | None, images: int, processes: Processes) -> None:
        if progress is not None:
            progress(images * processes.count)


def _size(size: int) -> str:
    """A number of bytes in the unit that shows its digits."""
    unit, scale = next(((unit, scale) for unit, scale in (("GB", 1e9), ("MB", 1e6)) if size >= scale), ("kB", 1e3))
    return f"{size / scale:.2f} {unit}"


def _chunks(pixels: Tensor) -> Iterator[Tensor]:
    for start in range(0, len(pixels), TOWER_BATCH):
        yield pixels[start : start + TOWER_BATCH]


@dataclass(frozen=True, eq=False)
class _Seen:
    """An image in all its versions, as the tower wants them."""

    name: str
    image_hw: tuple[int, int]
    pixels: Tensor
    depth_m: Tensor


class _Versions(Dataset["_Seen | SpaceClipError"]):
    """Item i is image `indices[i]` in all its versions."""

    def __init__(self, source: DepthSource, settings: CacheSettings, tower: TowerSpec, indices: list[int]) -> None:
        self._source = source
        self._settings = settings
        self._tower = tower
        self._indices = indices

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, item: int) -> _Seen | SpaceClipError:
        index, settings = self._indices[item], self._settings
        try:
            sample = self._source[index]
            image = seen_image(sample, settings.protocol)
            hw = (image.shape[0], image.shape[1])
            drawn = settings.augmentation
            versions = [
                drawn.version(number, seed=settings.seed, index=index, image_hw=hw) for number in range(settings.views)
            ]
            pixels = prepare([version.image(image) for version in versions], self._tower)
            depth_m = known_depth(sample, settings.protocol) if settings.targets else np.zeros((0, 0), np.float32)
        except SpaceClipError as error:
            return error
        return _Seen(sample.name, hw, pixels, torch.from_numpy(np.ascontiguousarray(depth_m)))
