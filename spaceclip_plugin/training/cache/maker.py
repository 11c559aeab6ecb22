"""Run the frozen tower over a data source once and keep what the head will read, shard by shard: a killed run goes on
where it was. The index is written last: a cache without one is not complete."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import logging
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from einops import rearrange
from filelock import FileLock, Timeout
from torch import Tensor

from spaceclip_plugin._files import write_json
from spaceclip_plugin.attach import DepthAttachment
from spaceclip_plugin.data import DepthSource
from spaceclip_plugin.data.preparation import as_bytes
from spaceclip_plugin.errors import CaptureError, DataError, TrainingError
from spaceclip_plugin.towers import TowerFeatures, TowerSpec
from spaceclip_plugin.training.cache.feature_cache import INDEX_NAME, FeatureCache, cache_index
from spaceclip_plugin.training.cache.shards import CachedImage, CacheShard, Kept, packed, write_shard
from spaceclip_plugin.training.cache.storage import STORAGES
from spaceclip_plugin.training.estimate import duration
from spaceclip_plugin.training.features import FeatureSettings
from spaceclip_plugin.training.processes import Processes
from spaceclip_plugin.training.reading_ahead import read_ahead

TOWER_BATCH = 16  # images the tower sees at once
LONG_S, FEW = 900, 2
"""Seconds from which on a shorter way is told: fewer versions of an image, and how many."""
SHARD_BYTES = 64 << 20  # about how large a shard is; as much is held in memory while it is made

_logger = logging.getLogger(__name__)


def make_cache(
    attachment: DepthAttachment,
    source: DepthSource,
    folder: Path,
    *,
    key: str,
    settings: FeatureSettings,
    processes: Processes,
    progress: Callable[[int], object] | None = None,  # called with the number of images done, over all processes
) -> FeatureCache:
    """Make a cache of what the attached head taps, or what is missing of it, and open it; `folder` is of it alone."""
    if len(source) == 0:
        raise DataError("there are no features to cache: the source is empty")
    maker = _Maker(attachment, source, folder, key, settings, processes)
    lock = FileLock(folder.with_name(f".{folder.name}.lock"))
    processes.on_main(lambda: _acquire(lock, folder))
    try:
        maker.images_per_shard = processes.on_main(maker.prepare)
        digests = processes.together(lambda: maker.make_share(progress))
        shards = {number: digest for share in processes.gathered(digests) for number, digest in share.items()}
        processes.on_main(lambda: maker.write_index(shards))
    finally:
        lock.release()
    taps, image_hw = attachment.head.taps, settings.image_hw(attachment.tower)
    tower, seen = dataclasses.replace(attachment.tower, image_hw=image_hw), attachment.seen(image_hw)
    return FeatureCache(folder, key=key, settings=settings, taps=taps, tower=tower, seen=seen)


def _acquire(lock: FileLock, folder: Path) -> None:
    """Lock the cache in `folder`; a run that finds another one making it waits for it."""
    with _making(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            _logger.info("another run is making the feature cache %s: waiting for it", folder)
            lock.acquire()


@dataclass(eq=False)
class _Maker:
    """One cache in the making."""

    attachment: DepthAttachment
    source: DepthSource
    folder: Path
    key: str
    settings: FeatureSettings
    processes: Processes
    images_per_shard: int = 1

    def prepare(self) -> int:
        """Make the folder, log what the cache will cost, and see that the disk has room; returns images per shard."""
        with _making(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            for left in self.folder.glob(".*.tmp.safetensors"):  # of a killed process
                left.unlink()
        with contextlib.suppress(TrainingError):
            _, starts, images = cache_index(self.folder, self.key)
            return starts[1] if len(starts) > 1 else images
        for _ in range(2):  # the first call of a tower is slower than all others
            started = time.perf_counter()
            [image] = self._cached(list(self._read([0], workers=0)))
            seconds = time.perf_counter() - started
        size = sum(part.nbytes for part in image.parts.values()) + image.depth_m.nbytes
        # A resumed cache keeps the shards it has.
        count = self._images_per_existing_shard() or max(1, SHARD_BYTES // size)
        with _making(self.folder):
            there = sum(path.stat().st_size for path in self.folder.glob("shard-*.safetensors"))
            free = shutil.disk_usage(self.folder).free
        images, needed = len(self.source), size * len(self.source)
        left_s = seconds * images / self.processes.count * max(0.0, 1 - there / max(1, needed))
        _logger.info(
            "features of %d images in %d versions: %s on the disk, about %.0f s to make%s%s",
            images, self.settings.versions, _size(needed), left_s,
            f" ({_size(there)} are there already)" if there else "",
            _shorter(left_s, self.settings.versions),
        )  # fmt: skip
        if needed - there > free:
            raise TrainingError(
                f"the feature cache {str(self.folder)!r} needs {_size(needed - there)} and {_size(free)} are free; "
                "free disk space, choose another folder, keep fewer versions of an image (--views) or int8 features, "
                "or none at all"
            )
        return count

    def make_share(self, progress: Callable[[int], object] | None) -> dict[int, str]:
        """Digests of this process's shards, once they are there and whole."""
        processes = self.processes

        def advance(images: int) -> None:
            if progress is not None:
                progress(images * processes.count)

        shards = -(-len(self.source) // self.images_per_shard)
        digests: dict[int, str] = {}
        missing: list[int] = []
        for number in range(processes.rank, shards, processes.count):
            if not self._path(number).exists():
                missing.append(number)
                continue
            shard = CacheShard(self._path(number), key=self.key)
            shard.verify()
            shard.check_place(self._range(number))
            digests[number] = shard.sha256
            advance(len(shard))
        read = self._read([i for number in missing for i in self._range(number)], workers=processes.workers)
        at_once = max(1, TOWER_BATCH // self.settings.versions)  # images whose versions fill the tower's batch
        for number in missing:
            held: list[CachedImage] = []
            images = self._range(number)
            while len(held) < len(images):
                together = list(itertools.islice(read, min(len(images) - len(held), at_once)))
                held += self._cached(together)
                advance(len(together))
            digests[number] = write_shard(self._path(number), held, key=self.key, start=images.start)
        return digests

    def write_index(self, shards: dict[int, str]) -> None:
        """Say that the cache is complete."""
        rows = [
            {"file": self._path(number).name, "start": number * self.images_per_shard, "sha256": shards[number]}
            for number in sorted(shards)
        ]
        try:
            write_json(self.folder / INDEX_NAME, {"key": self.key, "images": len(self.source), "shards": rows})
        except OSError as error:
            raise TrainingError(f"cannot write the feature cache's index: {error}; free disk space") from error

    def _read(self, indices: list[int], *, workers: int) -> Iterator[_Prepared]:
        """Images one after the other, read ahead by the workers."""
        read = functools.partial(_prepared, self.source, self.settings, self.attachment.tower)
        return read_ahead(read, indices, workers=workers)

    def _cached(self, images: Sequence[_Prepared]) -> list[CachedImage]:
        """Run the tower over all versions of some images."""
        made = [image.pixels_for(self.settings, self.attachment.tower) for image in images]
        kept = [self._kept(self._features(pixels, images)) for pixels in torch.split(torch.cat(made), TOWER_BATCH)]
        joined, versions = Kept.joined(kept), self.settings.versions
        return [
            self._packed(image, joined.rows(slice(place * versions, (place + 1) * versions)))
            for place, image in enumerate(images)
        ]

    def _kept(self, features: TowerFeatures) -> Kept:
        """What the head reads of them, on the CPU."""
        maps = {tap: rearrange(features.hidden[tap], "v c h w -> v h w c").cpu() for tap in self.attachment.head.taps}
        context, pixels = features.context, features.pixels
        return Kept(
            maps,
            None if context is None else context.cpu(),
            None if pixels is None else as_bytes(pixels, self.attachment.tower).cpu().contiguous(),
        )

    def _packed(self, image: _Prepared, kept: Kept) -> CachedImage:
        """One image's share of the features of several, as it is stored."""
        try:
            parts = packed(kept, STORAGES[self.settings.storage])
        except TrainingError as error:
            raise TrainingError(f"{image.name}: {error}") from error
        return CachedImage(image.name, image.image_hw, image.depth_m, parts)

    def _features(self, pixels: Tensor, images: Sequence[_Prepared]) -> TowerFeatures:
        """Features of some versions of these images; an error names the image it is about."""
        try:
            with self.settings.arithmetic(self.processes.device):
                self.attachment.refresh(pixels)
            return self.attachment.features()[-1]
        except CaptureError as error:
            if len(images) > 1:  # which one?
                for image in images:
                    self._cached([image])
            names = images[0].name if len(images) == 1 else f"{images[0].name} to {images[-1].name}"
            raise CaptureError(f"{names}: {error}") from error

    def _images_per_existing_shard(self) -> int | None:
        """As the first shard that is there tells; all but the last hold as many images as the first."""
        there = {path.name for path in self.folder.glob("shard-*.safetensors")}
        for number in range(len(self.source) if there else 0):
            if self._path(number).name in there:
                shard = CacheShard(self._path(number), key=self.key)
                return shard.start // number if number else len(shard)
        return None

    def _path(self, number: int) -> Path:
        return self.folder / f"shard-{number:05}.safetensors"

    def _range(self, number: int) -> range:
        start = number * self.images_per_shard
        return range(start, min(start + self.images_per_shard, len(self.source)))


@contextlib.contextmanager
def _making(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise TrainingError(f"cannot make the feature cache {str(folder)!r}: {error}") from error


def _shorter(seconds: float, versions: int) -> str:
    """What makes it shorter, where it is long."""
    if seconds < LONG_S or versions <= FEW:
        return ""
    return f"; --views {FEW} takes {duration(seconds * FEW / versions)}, and learns from fewer versions of an image"


def _size(size: int) -> str:
    """A number of bytes in the unit that shows its digits."""
    unit, scale = next(((unit, scale) for unit, scale in (("GB", 1e9), ("MB", 1e6)) if size >= scale), ("kB", 1e3))
    return f"{size / scale:.2f} {unit}"


@dataclass(frozen=True, eq=False)
class _Prepared:
    """An image in all its versions, as the tower wants them where a process that reads ahead could make that."""

    name: str
    image_hw: tuple[int, int]
    versions: Sequence[npt.NDArray[np.uint8]]  # empty where there are pixels
    pixels: Tensor | None
    depth_m: Tensor

    def pixels_for(self, settings: FeatureSettings, tower: TowerSpec) -> Tensor:
        """(V, 3, h, w), made now where they could not be made before."""
        return settings.pixels(self.versions, tower) if self.pixels is None else self.pixels


def _prepared(source: DepthSource, settings: FeatureSettings, tower: TowerSpec, index: int) -> _Prepared:
    sample = source[index]
    image = settings.image(sample)
    hw = (image.shape[0], image.shape[1])
    versions = [settings.version(number, index=index, image_hw=hw) for number in range(settings.versions)]
    images = [version.image(image) for version in versions]
    depth_m = settings.depth_m(sample) if settings.targets else np.zeros((0, 0), np.float32)
    target_m = torch.from_numpy(np.ascontiguousarray(depth_m))
    if not settings.portable:
        return _Prepared(sample.name, hw, images, None, target_m)
    return _Prepared(sample.name, hw, (), settings.pixels(images, tower), target_m)
