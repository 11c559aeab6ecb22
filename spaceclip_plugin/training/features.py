"""What the trainer reads: the features and depth of any images, in any of their versions, whoever makes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from typing_extensions import Self

from spaceclip_plugin.towers.spec import TowerFeatures

Loaded = dict[str, Tensor]
"""A batch as a worker process reads it: tensors on the CPU by name, their first dimension the images."""


@dataclass(frozen=True, eq=False)
class Batch:
    """One training step's input: features, and the depth they should decode to (B, H, W) in metres, 0 = unknown.

    Of what the tower never read, the depth is unknown, whatever was measured.
    """

    features: TowerFeatures
    target_m: Tensor

    @classmethod
    def of(cls, features: TowerFeatures, depth_m: Tensor) -> Self:
        """Features with the depth (B, H, W) of the whole image, (B, 0, 0) where none is wanted."""
        if features.seen is None or not depth_m.numel():
            return cls(features, depth_m)
        seen = features.seen.mask((depth_m.shape[1], depth_m.shape[2])).to(depth_m.device)
        return cls(features, depth_m * seen)


class FeatureStream(Protocol):
    """Features of a data source: read from a cache, or made by the tower when asked.

    Reading is split in two: `load` runs in any process, also in a worker of a data loader, and reads files; `decode`
    runs in the training process and ends on the head's device.
    """

    @property
    def views(self) -> int:
        """How many versions of every image there are; see `Augmentation.version`."""
        ...

    @property
    def target_hw(self) -> tuple[int, int]:
        """Size of a batch's targets, in pixels."""
        ...

    def __len__(self) -> int:
        """Number of images."""
        ...

    def name(self, index: int) -> str:
        """What an image is called, for messages."""
        ...

    def load(self, indices: Sequence[int], views: Sequence[int]) -> Loaded:
        """Read some images, each in one of its versions."""
        ...

    def decode(self, loaded: Loaded, device: torch.device) -> Batch:
        """Features (float32) and targets of what `load` gave, on `device`."""
        ...
