"""What a head is trained on: the tower's features of every version of an image, and the depth they should decode to."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol as Structural

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from typing_extensions import Self

from spaceclip_plugin.attach.camera_lenses import shown_patches
from spaceclip_plugin.data import Augmentation, DepthSample, Version, prepare
from spaceclip_plugin.data.preparation import ImagePreparation
from spaceclip_plugin.depth import ImageMapping
from spaceclip_plugin.evaluation import Protocol
from spaceclip_plugin.towers import ImageGeometry, SeenPart, TowerFeatures, TowerSpec
from spaceclip_plugin.training.data_camera import DataCamera
from spaceclip_plugin.training.tower_precision import OWN, arithmetic

Loaded = dict[str, Tensor]
"""A batch as a worker process reads it: tensors on the CPU by name, their first dimension the images."""


@dataclass(frozen=True, kw_only=True)
class FeatureSettings:
    """What is taken of a sample, and in how many versions."""

    protocol: Protocol  # what part of an image the host sees
    versions: int  # of every image; see `Augmentation.version`
    augmentation: Augmentation  # what they differ in
    seed: int  # of the random ones
    storage: str  # what a cache keeps them as, a name in `STORAGES`; live features ignore it
    targets: bool  # whether depth is wanted, too
    camera: DataCamera | None = None  # whose metres the depth is brought to; None: they stay as they are
    target_side: int | None = None  # longest side of a batch's targets in pixels; None: as the depth is
    preparation: ImagePreparation | None = None  # what makes the tower's images; None: photos are stretched to them
    tower_precision: str = OWN  # of the tower's arithmetic, see `training.tower_precision`

    @property
    def preparation_name(self) -> str:
        """All that decides the pixels of an image beside the tower's spec."""
        return ImageGeometry.STRETCH.name if self.preparation is None else self.preparation.name

    @property
    def portable(self) -> bool:
        """Whether processes that read data ahead may make the tower's images, too."""
        return self.preparation is None or self.preparation.portable

    def arithmetic(self, device: torch.device) -> contextlib.AbstractContextManager[object]:
        """What the tower is to run in, on that device."""
        return arithmetic(self.tower_precision, device)

    def pixels(self, photos: Sequence[npt.NDArray[np.uint8]], tower: TowerSpec) -> Tensor:
        """(B, 3, h, w) float32: the tower's images of some photos, whole or versions of them."""
        return prepare(photos, tower) if self.preparation is None else self.preparation(photos)

    def image_hw(self, tower: TowerSpec) -> tuple[int, int]:
        """Size of these images."""
        return tower.image_hw if self.preparation is None else self.preparation.image_hw

    def mapping(self, version: Version, image_hw: tuple[int, int]) -> ImageMapping | None:
        """From the version of an image of that size to the tower's image; None where that shows all of it."""
        if self.preparation is None:
            return None
        mapping = self.preparation.mapping(version.image_hw(image_hw))
        return None if mapping.stretches else mapping

    def image(self, sample: DepthSample) -> npt.NDArray[np.uint8]:
        """(h, w, 3) uint8 RGB of the protocol's crop; DataError where the sample cannot be used."""
        self.protocol.check(sample)
        return self.protocol.input_image(sample)

    def depth_m(self, sample: DepthSample) -> npt.NDArray[np.float32]:
        """(h, w) metres of the protocol's crop, as of the head's camera; 0 where unknown or outside the range, infinite
        where nothing is."""
        depth_m = self.protocol.training_target(sample)
        # Beyond the range a sensor gives the range's end: a zoomed version would scale that into it.
        inside = (depth_m > self.protocol.min_depth_m) & (depth_m < self.protocol.max_depth_m)
        known = inside | (depth_m == np.inf)
        scale = 1.0
        if self.camera is not None:
            scale = self.camera.to_head(sample, self.protocol, preparation=self.preparation)
        target_m: npt.NDArray[np.float32] = np.where(known, depth_m * np.float32(scale), np.float32(0))
        return target_m

    def version(self, number: int, *, index: int, image_hw: tuple[int, int]) -> Version:
        """Version `number` of image `index`, whose protocol's crop has `image_hw` pixels."""
        return self.augmentation.version(number, seed=self.seed, index=index, image_hw=image_hw)

    def target(
        self, depth_m: npt.NDArray[np.float32], version: Version, *, image_hw: tuple[int, int], hw: tuple[int, int]
    ) -> npt.NDArray[np.float32]:
        """What the head should say of a version over the tower's image, (h, w) metres of that size.

        `depth_m` is that of the image, which has `image_hw` pixels.
        """
        mapping = self.mapping(version, image_hw)
        if self.preparation is None or mapping is None:
            return version.target(depth_m, hw)
        # A version of another aspect than the image's may be enlarged otherwise, and so seem nearer or farther.
        whole = self.preparation.mapping(image_hw)
        enlarged = math.sqrt(mapping.scale_x * mapping.scale_y / (whole.scale_x * whole.scale_y))
        target_m = version.target(depth_m, hw, mapping=mapping)
        target_m *= np.float32(1 / (enlarged * version.scale))
        return target_m

    def shown(
        self, patch_map: Tensor, *, index: int, image_hw: tuple[int, int], seen: SeenPart | None
    ) -> Tensor | None:
        """(V, h, w) bool: which patches of the first versions of an image, (V, C, h, w), show it, and no padding.

        None: all do.
        """
        versions = [self.version(number, index=index, image_hw=image_hw) for number in range(len(patch_map))]
        mappings = [self.mapping(version, image_hw) for version in versions]
        grid_hw = (patch_map.shape[2], patch_map.shape[3])
        if all(mapping is None for mapping in mappings):
            return None
        every = torch.ones(grid_hw, dtype=torch.bool)
        shown = [every if one is None else shown_patches(one, seen, grid_hw) for one in mappings]
        return torch.stack(shown).to(patch_map.device)

    def target_hw(self, depth_hw: tuple[int, int], image_hw: tuple[int, int]) -> tuple[int, int]:
        """Size of the targets, in pixels, where the first image and its depth have these.

        They are over the tower's image, at the resolution of the depth.
        """
        mapping = self.mapping(Version(), image_hw)
        if mapping is not None:
            per_pixel = (depth_hw[0] / image_hw[0] / mapping.scale_y, depth_hw[1] / image_hw[1] / mapping.scale_x)
            rows, columns = (max(1, round(mapping.tower_hw[i] * per_pixel[i])) for i in (0, 1))
            depth_hw = rows, columns
        longest = max(depth_hw)
        if self.target_side is None or longest <= self.target_side:
            return depth_hw
        height, width = (max(1, round(side * self.target_side / longest)) for side in depth_hw)
        return height, width


@dataclass(frozen=True, eq=False)
class Batch:
    """One training step's input: features, and the depth they should decode to (B, H, W) in metres, 0 where unknown and
    infinite where nothing is. Of what the tower never read, the depth is unknown, whatever was measured."""

    features: TowerFeatures
    target_m: Tensor

    @classmethod
    def of(cls, features: TowerFeatures, depth_m: Tensor) -> Self:
        """Features with the depth (B, H, W) of the whole image, (B, 0, 0) where none is wanted."""
        if features.seen is None or not depth_m.numel():
            return cls(features, depth_m)
        seen = features.seen.mask((depth_m.shape[1], depth_m.shape[2])).to(depth_m.device)
        return cls(features, depth_m.masked_fill(~seen, 0))


def stacked_targets(targets: Sequence[npt.NDArray[np.float32]], images: int) -> Tensor:
    """(B, H, W) of the targets of a batch; (B, 0, 0) where there are none."""
    return torch.stack([torch.from_numpy(one.copy()) for one in targets]) if targets else torch.zeros(images, 0, 0)


class FeatureStream(Structural):
    """Features of a data source: read from a cache, or made by the tower when asked.
    `load` reads files, also in a worker process; `decode` runs in the training process, on the head's device."""

    @property
    def versions(self) -> int:
        """How many there are of every image."""

    @property
    def target_hw(self) -> tuple[int, int]:
        """Size of a batch's targets, in pixels."""

    def __len__(self) -> int:
        """Number of images."""

    def name(self, index: int) -> str:
        """What an image is called, for messages."""

    def load(self, indices: Sequence[int], versions: Sequence[int]) -> Loaded:
        """Read some images, each in one of its versions."""

    def decode(self, loaded: Loaded, device: torch.device) -> Batch:
        """Features (float32) and targets of what `load` gave, on `device`."""

    def tokens(self, index: int, *, tap: int, versions: int, device: torch.device) -> Tensor:
        """(V, C) float32 mean tokens of a hidden state of one image, in its first versions; padding does not count."""
