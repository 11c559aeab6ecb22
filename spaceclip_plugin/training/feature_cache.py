"""The frozen tower's features, computed once: training then never runs the tower.

Arrays are memory-mapped `.npy` files, so a cache may be larger than memory. Patch maps are stored as (h, w, C) per
image, which reads back as the channels-last layout convolutions like best.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from einops import rearrange
from torch import Tensor

from spaceclip_plugin.attachment import DepthAttachment
from spaceclip_plugin.data.preparation import prepare
from spaceclip_plugin.data.sample import DepthSample, DepthSource
from spaceclip_plugin.errors import DataError, TrainingError
from spaceclip_plugin.evaluation.protocols import Protocol
from spaceclip_plugin.tower import TowerFeatures

CHUNK = 16


@dataclass(frozen=True, eq=False)
class Batch:
    """One training step's input: features, and the depth they should decode to (B, H, W) in metres, 0 = unknown."""

    features: TowerFeatures
    target_m: Tensor


class FeatureCache:
    """Features and targets of a data source, as `cache_features` wrote them.

    Attributes:
        names: name of each sample, for messages.
    """

    def __init__(
        self,
        maps: dict[int, npt.NDArray[np.generic]],
        context: npt.NDArray[np.generic],
        targets: npt.NDArray[np.generic],
        *,
        names: Sequence[str],
        image_hw: tuple[int, int],
    ) -> None:
        self.names = tuple(names)
        self._maps = maps
        self._context = context
        self._targets = targets
        self._image_hw = image_hw

    def __len__(self) -> int:
        return len(self._context)

    @property
    def views(self) -> int:
        """1: as photographed; 2: also mirrored."""
        return int(self._context.shape[1])

    @property
    def target_hw(self) -> tuple[int, int]:
        """Size of the targets, in pixels."""
        return int(self._targets.shape[1]), int(self._targets.shape[2])

    def batch(self, indices: Sequence[int], mirrored: Sequence[bool]) -> Batch:
        """Features (float32) and targets of some images, each as photographed or mirrored."""
        rows, view = np.asarray(indices), np.asarray(mirrored, dtype=np.int64)
        hidden = {
            tap: rearrange(torch.from_numpy(values[rows, view].astype(np.float32)), "b h w c -> b c h w")
            for tap, values in self._maps.items()
        }
        context = torch.from_numpy(self._context[rows, view])
        targets = torch.from_numpy(self._targets[rows])
        flips = torch.from_numpy(view.astype(bool))
        targets = torch.where(flips[:, None, None], targets.flip(-1), targets)
        return Batch(TowerFeatures(hidden, context, self._image_hw), targets)


def cache_features(
    attachment: DepthAttachment,
    source: DepthSource,
    folder: Path,
    *,
    protocol: Protocol,
    mirror: bool,
    targets: bool = True,
    progress: Callable[[int], object] | None = None,
) -> FeatureCache:
    """Run the frozen tower over every image of `source` and write what the head will read to `folder`.

    Args:
        attachment: the host with the head to train, whose taps are kept.
        folder: an existing empty folder.
        protocol: what part of an image the host sees.
        mirror: also run the mirrored images.
        targets: also store depth, which must then be of one size; without, a batch's target is empty.
        progress: called with the number of images done.

    Raises:
        DataError: a sample that cannot be read or scored, or targets of different sizes.
        TrainingError: features that float16 cannot hold, or a full disk.
    """
    writer: _Writer | None = None
    for start in range(0, len(source), CHUNK):
        samples = [source[i] for i in range(start, min(start + CHUNK, len(source)))]
        for sample in samples:
            protocol.check(sample)  # now, and not in the middle of a run
        images = [protocol.input_image(sample) for sample in samples]
        views = [_features(attachment, images)]
        if mirror:
            views.append(_features(attachment, [image[:, ::-1] for image in images]))
        depths = [protocol.training_target(sample) if targets else np.zeros((0, 0), np.float32) for sample in samples]
        if writer is None:
            writer = _Writer(folder, len(source), views, depths[0].shape, attachment.head.taps)
        writer.write(start, samples, views, depths)
        if progress is not None:
            progress(len(samples))
    if writer is None:
        raise DataError("nothing to train on: the source is empty")
    return writer.finish(attachment.tower.image_hw)


def _features(attachment: DepthAttachment, images: Sequence[npt.NDArray[np.uint8]]) -> TowerFeatures:
    attachment.refresh(prepare(images, attachment.tower))
    return attachment.features()[-1]


class _Writer:
    """Memory-mapped arrays that fill up from the front."""

    def __init__(
        self, folder: Path, count: int, views: Sequence[TowerFeatures], target_hw: tuple[int, ...], taps: Sequence[int]
    ) -> None:
        first = views[0]
        self._names: list[str] = []
        self._maps = {}
        for tap in taps:
            _, channels, rows, columns = first.hidden[tap].shape
            shape = (count, len(views), rows, columns, channels)
            self._maps[tap] = _memory_map(folder / f"hidden_{tap:03}.npy", np.float16, shape)
        # A head without FiLM reads no context; a width of zero keeps one code path.
        width = 0 if first.context is None else first.context.shape[1]
        self._context = _memory_map(folder / "context.npy", np.float32, (count, len(views), width))
        self._targets = _memory_map(folder / "depth_m.npy", np.float32, (count, *target_hw))

    def write(
        self,
        start: int,
        samples: Sequence[DepthSample],
        views: Sequence[TowerFeatures],
        targets: Sequence[npt.NDArray[np.float32]],
    ) -> None:
        rows = slice(start, start + len(samples))
        self._names += [sample.name for sample in samples]
        for sample, target in zip(samples, targets, strict=True):
            if target.shape != self._targets.shape[1:]:
                raise DataError(
                    f"{sample.name}: depth of {target.shape[0]}x{target.shape[1]} (HxW) in a source that began with "
                    f"{self._targets.shape[1]}x{self._targets.shape[2]}; train on depth maps of one size"
                )
        for view, features in enumerate(views):
            for tap, stored in self._maps.items():
                half = rearrange(features.hidden[tap], "b c h w -> b h w c").to("cpu", torch.float16)
                if not torch.isfinite(half).all():
                    raise TrainingError(
                        f"hidden state {tap} of {samples[0].name} and following exceeds what float16 holds (65504); "
                        "leave that tap out of the head"
                    )
                stored[rows, view] = half.numpy()
            if features.context is not None:
                self._context[rows, view] = features.context.float().cpu().numpy()
        self._targets[rows] = np.stack(targets)

    def finish(self, image_hw: tuple[int, int]) -> FeatureCache:
        return FeatureCache(self._maps, self._context, self._targets, names=self._names, image_hw=image_hw)


def _memory_map(path: Path, dtype: type[np.generic], shape: tuple[int, ...]) -> npt.NDArray[np.generic]:
    if 0 in shape:
        return np.zeros(shape, dtype)
    try:
        # A memory map is a hole on the disk until it is written, and a full disk then kills the process: ask first.
        size, free = math.prod(shape) * np.dtype(dtype).itemsize, shutil.disk_usage(path.parent).free
        if size > free:
            raise OSError(f"it needs {size / 1e9:.1f} GB and {free / 1e9:.1f} GB are free")
        array = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
        if hasattr(os, "posix_fallocate"):
            with path.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    except OSError as error:
        raise TrainingError(
            f"cannot make the feature cache {str(path)!r}: {error}; free disk space or choose another folder"
        ) from error
    return array
