"""The frozen tower's features, computed once: training then never runs the tower.

Arrays are memory-mapped `.npy` files, so a cache may be larger than memory. Patch maps are stored as (h, w, C) per
image, which reads back as the channels-last layout convolutions like best.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from einops import rearrange
from torch import Tensor

from spaceclip_plugin.attachment import DepthAttachment
from spaceclip_plugin.data.augmentation import View, views_of
from spaceclip_plugin.data.preparation import prepare
from spaceclip_plugin.data.sample import DepthSample, DepthSource
from spaceclip_plugin.errors import DataError, TrainingError
from spaceclip_plugin.evaluation.protocols import Protocol
from spaceclip_plugin.tower import TowerFeatures

CHUNK = 16

Scalar = TypeVar("Scalar", bound=np.generic)


@dataclass(frozen=True, eq=False)
class Batch:
    """One training step's input: features, and the depth they should decode to (B, H, W) in metres, 0 = unknown."""

    features: TowerFeatures
    target_m: Tensor


class FeatureCache:
    """Features and depth of a data source, as `cache_features` wrote them.

    Attributes:
        names: name of each sample, for messages.
        target_hw: size of a batch's targets, in pixels.
    """

    def __init__(
        self,
        maps: Mapping[int, npt.NDArray[np.float16]],
        context: npt.NDArray[np.float32],
        depths_m: npt.NDArray[np.float32],
        *,
        names: Sequence[str],
        versions: Sequence[tuple[View, ...]],
        image_hw: tuple[int, int],
        target_side: int | None,
    ) -> None:
        self.names = tuple(names)
        self.target_hw = _within((depths_m.shape[1], depths_m.shape[2]), target_side)
        self._maps = maps
        self._context = context
        self._depths_m = depths_m
        self._versions = tuple(versions)
        self._image_hw = image_hw

    def __len__(self) -> int:
        return len(self._context)

    @property
    def views(self) -> int:
        """How many versions of every image there are: `data.augmentation.views_of` says which."""
        return int(self._context.shape[1])

    def batch(self, indices: Sequence[int], views: Sequence[int]) -> Batch:
        """Features (float32) and targets of some images, each in one of its versions."""
        rows, columns = np.asarray(indices), np.asarray(views)
        hidden = {
            tap: rearrange(torch.from_numpy(values[rows, columns].astype(np.float32)), "b h w c -> b c h w")
            for tap, values in self._maps.items()
        }
        context = torch.from_numpy(self._context[rows, columns])
        targets = np.zeros((len(rows), *self.target_hw), np.float32)
        if targets.size:
            for target, index, view in zip(targets, indices, views, strict=True):
                target[:] = self._versions[index][view].target(self._depths_m[index], self.target_hw)
        return Batch(TowerFeatures(hidden, context, self._image_hw), torch.from_numpy(targets))


def cache_features(
    attachment: DepthAttachment,
    source: DepthSource,
    folder: Path,
    *,
    protocol: Protocol,
    views: int,
    seed: int = 0,
    targets: bool = True,
    target_side: int | None = None,
    progress: Callable[[int], object] | None = None,
) -> FeatureCache:
    """Run the frozen tower over every image of `source` and write what the head will read to `folder`.

    Args:
        attachment: the host with the head to train, whose taps are kept.
        folder: an existing empty folder.
        protocol: what part of an image the host sees; versions are versions of that part.
        views: versions of every image, as `views_of` makes them: 1 as photographed, 2 also mirrored, more also random.
        seed: of the random versions.
        targets: also store depth, once for all versions, which must then be of one size; without, a batch's target is
            empty.
        target_side: the longer side of a batch's targets is at most this, in pixels; None: as the depth is.
        progress: called with the number of images done.

    Raises:
        DataError: a sample that cannot be read or scored, or depth of different sizes.
        TrainingError: features that float16 cannot hold, or a full disk.
    """
    writer: _Writer | None = None
    for start in range(0, len(source), CHUNK):
        samples = [source[i] for i in range(start, min(start + CHUNK, len(source)))]
        for sample in samples:
            protocol.check(sample)  # now, and not in the middle of a run
        images = [protocol.input_image(sample) for sample in samples]
        versions = [
            views_of(views, seed=seed, index=start + i, image_hw=(image.shape[0], image.shape[1]))
            for i, image in enumerate(images)
        ]
        depths = [_known(sample, protocol) if targets else np.zeros((0, 0), np.float32) for sample in samples]
        if writer is None:
            writer = _Writer(folder, len(source), views, depths[0].shape, attachment.head.taps)
        writer.write_samples(start, samples, depths, versions)
        for view in range(views):  # one after the other: memory stays flat
            seen = [own[view].image(image) for own, image in zip(versions, images, strict=True)]
            attachment.refresh(prepare(seen, attachment.tower))
            writer.write_features(start, view, attachment.features()[-1])
        if progress is not None:
            progress(len(samples))
    if writer is None:
        raise DataError("nothing to train on: the source is empty")
    return writer.finish(attachment.tower.image_hw, target_side)


def _known(sample: DepthSample, protocol: Protocol) -> npt.NDArray[np.float32]:
    # Beyond the range a sensor gives the range's end: a zoomed view would scale that into it.
    depth_m = protocol.training_target(sample)
    inside = (depth_m > protocol.min_depth_m) & (depth_m < protocol.max_depth_m)
    return np.where(inside, depth_m, np.float32(0))


class _Writer:
    """Memory-mapped arrays that fill up from the front."""

    def __init__(self, folder: Path, count: int, views: int, depth_hw: tuple[int, ...], taps: Sequence[int]) -> None:
        self._folder = folder
        self._shape = (count, views)
        self._taps = taps
        self._names: list[str] = []
        self._versions: list[tuple[View, ...]] = []
        self._maps: dict[int, npt.NDArray[np.float16]] = {}
        # Not every head reads the context; a width of zero keeps one code path.
        self._context = np.zeros((*self._shape, 0), np.float32)
        self._depths_m = _memory_map(folder / "depth_m.npy", np.float32, (count, *depth_hw))

    def write_samples(
        self,
        start: int,
        samples: Sequence[DepthSample],
        depths_m: Sequence[npt.NDArray[np.float32]],
        versions: Sequence[tuple[View, ...]],
    ) -> None:
        """Depth as photographed, and the versions in which it will be asked for."""
        for sample, depth_m in zip(samples, depths_m, strict=True):
            if depth_m.shape != self._depths_m.shape[1:]:
                raise DataError(
                    f"{sample.name}: depth of {depth_m.shape[0]}x{depth_m.shape[1]} (HxW) in a source that began with "
                    f"{self._depths_m.shape[1]}x{self._depths_m.shape[2]}; train on depth maps of one size"
                )
        self._depths_m[start : start + len(samples)] = np.stack(depths_m)
        self._names += [sample.name for sample in samples]
        self._versions += versions

    def write_features(self, start: int, view: int, features: TowerFeatures) -> None:
        """One version of the samples from `start` on."""
        if not self._maps:
            self._make_maps(features)
        for tap, stored in self._maps.items():
            half = rearrange(features.hidden[tap], "b c h w -> b h w c").to("cpu", torch.float16)
            if not torch.isfinite(half).all():
                raise TrainingError(
                    f"hidden state {tap} of {self._names[start]} and following exceeds what float16 holds (65504); "
                    "leave that tap out of the head"
                )
            stored[start : start + len(half), view] = half.numpy()
        if features.context is not None:
            self._context[start : start + len(features.context), view] = features.context.float().cpu().numpy()

    def _make_maps(self, features: TowerFeatures) -> None:
        for tap in self._taps:
            _, channels, rows, columns = features.hidden[tap].shape
            path = self._folder / f"hidden_{tap:03}.npy"
            self._maps[tap] = _memory_map(path, np.float16, (*self._shape, rows, columns, channels))
        if features.context is not None:
            width = features.context.shape[1]
            self._context = _memory_map(self._folder / "context.npy", np.float32, (*self._shape, width))

    def finish(self, image_hw: tuple[int, int], target_side: int | None) -> FeatureCache:
        return FeatureCache(
            self._maps,
            self._context,
            self._depths_m,
            names=self._names,
            versions=self._versions,
            image_hw=image_hw,
            target_side=target_side,
        )


def _within(hw: tuple[int, int], longest: int | None) -> tuple[int, int]:
    """`hw`, scaled down so that neither side is longer than that."""
    if longest is None or max(hw) <= longest:
        return hw
    return max(1, round(hw[0] * longest / max(hw))), max(1, round(hw[1] * longest / max(hw)))


def _memory_map(path: Path, dtype: type[Scalar], shape: tuple[int, ...]) -> npt.NDArray[Scalar]:
    if 0 in shape:
        return np.zeros(shape, dtype)
    try:
        # A memory map is a hole on the disk until it is written, and a full disk then kills the process: ask first.
        size, free = math.prod(shape) * np.dtype(dtype).itemsize, shutil.disk_usage(path.parent).free
        if size > free:
            raise OSError(f"it needs {size / 1e9:.1f} GB and {free / 1e9:.1f} GB are free")
        array: npt.NDArray[Scalar] = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
        if hasattr(os, "posix_fallocate"):
            with path.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    except OSError as error:
        raise TrainingError(
            f"cannot make the feature cache {str(path)!r}: {error}; free disk space, choose another folder, "
            "or keep fewer views of an image"
        ) from error
    return array
