"""The statistics that images in [0, 1] are normalised with: those a user says, else the host, else the family.

Wrong ones raise no error anywhere, they shift every activation.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from spaceclip_plugin.errors import ConfigError
from spaceclip_plugin.towers.spec import TowerSpec

_TOLERANCE = 1e-4  # configs round: 0.4815, 0.4814547 and 0.48145466 are one number
_MAX_MEAN = 10.0  # far beyond what images in [0, 1] have, and below what bytes do
_USERS = "_spaceclip_image_statistics"


@dataclass(frozen=True)
class ImageStatistics:
    """Per-channel mean and standard deviation that images in [0, 1] are normalised with, in RGB order.

    Attributes:
        mean, std: three numbers each.
        IMAGENET: what most towers outside the CLIP and SigLIP families were trained with.
        SYMMETRIC: images in [-1, 1], as the SigLIP family takes them.

    Raises:
        ConfigError: not three finite numbers each, or a deviation that is not positive.

    Example:
        >>> from spaceclip_plugin.towers import ImageStatistics
        >>> print(ImageStatistics((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)))
        mean (0.5, 0.5, 0.5), std (0.5, 0.5, 0.5)
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    IMAGENET: ClassVar[ImageStatistics]
    SYMMETRIC: ClassVar[ImageStatistics]

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            match getattr(self, name):
                case [int() | float() as red, int() | float() as green, int() | float() as blue]:
                    value = (float(red), float(green), float(blue))
                case _:
                    value = (math.nan,) * 3
            if not all(map(math.isfinite, value)) or (name == "std" and min(value) <= 0):
                positive = "positive " if name == "std" else ""
                raise ConfigError(
                    f"image_{name} must be three finite {positive}numbers in the order R, G, B, for images in [0, 1], "
                    f"got {getattr(self, name)!r}"
                )
            object.__setattr__(self, name, value)

    @classmethod
    def of(cls, spec: TowerSpec) -> ImageStatistics:
        """The statistics of a tower."""
        return cls(spec.image_mean, spec.image_std)

    @classmethod
    def from_pair(cls, mean: object, std: object) -> ImageStatistics | None:
        """The statistics that two values mean; None where both are None.

        Raises:
            ConfigError: one without the other, values that cannot be, or numbers of bytes from 0 to 255.
        """
        if mean is None and std is None:
            return None
        if mean is None or std is None:
            absent, given = ("image_mean", "image_std") if mean is None else ("image_std", "image_mean")
            raise ConfigError(
                f"{given} is given without {absent}; give both (--image-mean and --image-std), or neither"
            )
        return cls(mean, std).in_unit_range()  # type: ignore[arg-type]  # it checks them

    def in_unit_range(self) -> ImageStatistics:
        """The same statistics; ConfigError where they are of bytes from 0 to 255, as some libraries have them."""
        if max(self.mean + self.std) <= _MAX_MEAN:
            return self
        mean, std = (",".join(f"{value / 255:.4g}" for value in values) for values in (self.mean, self.std))
        raise ConfigError(
            f"{self} are numbers for bytes from 0 to 255; for images in [0, 1] they are divided by 255: mean {mean}, "
            f"std {std}"
        )

    def agrees(self, other: ImageStatistics) -> bool:
        """Whether both are the same but for rounding in a config (1e-4)."""
        pairs = zip(self.mean + self.std, other.mean + other.std, strict=True)
        return all(math.isclose(ours, theirs, rel_tol=0.0, abs_tol=_TOLERANCE) for ours, theirs in pairs)

    def declare(self, host: nn.Module) -> None:
        """Have every tower of `host` take these statistics, whatever the host and the family say.

        They are kept as a plain attribute of the host: no parameter, no buffer, no part of its state.
        """
        setattr(host, _USERS, self)

    def __str__(self) -> str:
        mean, std = (", ".join(f"{value:.4g}" for value in values) for values in (self.mean, self.std))
        return f"mean ({mean}), std ({std})"


ImageStatistics.IMAGENET = ImageStatistics(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
ImageStatistics.SYMMETRIC = ImageStatistics(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


def said_by_user(holders: Iterable[nn.Module]) -> ImageStatistics | None:
    """What a user declared for one of these modules, which hold each other, the innermost first."""
    found = (getattr(module, _USERS, None) for module in holders)
    return next((one for one in found if isinstance(one, ImageStatistics)), None)


def declared(holders: Iterable[nn.Module]) -> ImageStatistics | None:
    """What modules which hold each other declare: what a user said, else the innermost that says something decides."""
    holders = list(holders)
    users = said_by_user(holders)
    if users is not None:
        return users
    configs = [config for module in holders if isinstance(config := getattr(module, "pretrained_cfg", None), Mapping)]
    # Of open_clip's hosts, and transformers' that were loaded by name; timm's have a `pretrained_cfg`.
    pairs = [(getattr(module, "image_mean", None), getattr(module, "image_std", None)) for module in holders]
    for mean, std in [*pairs, *((config.get("mean"), config.get("std")) for config in configs)]:
        with suppress(ConfigError):  # a host may keep something else under these names
            return ImageStatistics(mean, std)  # type: ignore[arg-type]  # it checks them
    return None
