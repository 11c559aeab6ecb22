"""Which versions of an image are drawn, by number: any of thousands is had without the others."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spaceclip_plugin import _checks
from spaceclip_plugin.data.version import Version
from spaceclip_plugin.errors import ConfigError

_FACTORS = ("gamma", "brightness", "contrast", "saturation", "gains")


@dataclass(frozen=True)
class Augmentation:
    """What a random version of an image may be; the defaults only mirror.

    Attributes:
        smallest_crop: crops show from this fraction to all of either side, the same of both, somewhere.
        crop_hw: crops of this size in pixels (height, width) instead, clipped to the image, somewhere; None: fractions.
        rotation_deg: turned about the image's centre by up to this many degrees, either way, before the crop.
        gamma: smallest and largest exponent of the pixels' values.
        brightness, contrast, saturation: smallest and largest factor.
        gains: smallest and largest factor of each of red, green and blue.
        mirror: whether half of the random versions are mirrored, and version 1 is the mirrored photo.

    Raises:
        ConfigError: a value out of bounds, a range that falls, or crops of both kinds.

    Example:
        >>> from spaceclip_plugin.data import Augmentation
        >>> version = Augmentation.named("recommended").version(7, seed=0, index=12, image_hw=(480, 640))
        >>> 0.7 <= version.scale <= 1.0
        True
    """

    smallest_crop: float = 1.0
    crop_hw: tuple[int, int] | None = None
    rotation_deg: float = 0.0
    gamma: tuple[float, float] = (1.0, 1.0)
    brightness: tuple[float, float] = (1.0, 1.0)
    contrast: tuple[float, float] = (1.0, 1.0)
    saturation: tuple[float, float] = (1.0, 1.0)
    gains: tuple[float, float] = (1.0, 1.0)
    mirror: bool = True

    def __post_init__(self) -> None:
        _checks.real("smallest_crop", self.smallest_crop, 0.01, 1.0)
        _checks.real("rotation_deg", self.rotation_deg, 0.0, 180.0)
        if self.crop_hw is not None:
            object.__setattr__(self, "crop_hw", _checks.wholes("crop_hw", self.crop_hw, 1, 65_536, length=2))
            if self.smallest_crop != 1.0:
                raise ConfigError(
                    f"crops are of a fixed size or of a random one, got crop_hw={self.crop_hw} and "
                    f"smallest_crop={self.smallest_crop}; leave one of them out"
                )
        for name in _FACTORS:
            low, high = _checks.reals(name, getattr(self, name), 0.1 if name == "gamma" else 0.0, 10.0, length=2)
            if low > high:
                raise ConfigError(f"{name} is a range (smallest, largest), got ({low}, {high}); swap the two")
            object.__setattr__(self, name, (low, high))
        _checks.truth("mirror", self.mirror)

    @classmethod
    def named(cls, name: str) -> Augmentation:
        """The augmentation of a name in `AUGMENTATIONS`.

        Raises:
            ConfigError: there is none of that name; says which there are.
        """
        return AUGMENTATIONS[_checks.choice("augmentation", name, AUGMENTATIONS)]

    def version(self, number: int, *, seed: int, index: int, image_hw: tuple[int, int]) -> Version:
        """Version `number` of image `index`.

        Args:
            number: 0: as photographed; 1: mirrored, where the augmentation mirrors; every other one is random.
            seed, index: not negative; with `number`, they are what a random version depends on.
            image_hw: size of the image in pixels; crops end at its pixels' borders.
        """
        if number == 0:
            return Version()
        if number == 1 and self.mirror:
            return Version(mirrored=True)
        generator = np.random.default_rng([seed, index, number])
        scale = generator.uniform(self.smallest_crop, 1.0)
        crop_hw = self.crop_hw or tuple(max(1, round(scale * side)) for side in image_hw)
        sides = [min(side, whole) for side, whole in zip(crop_hw, image_hw, strict=True)]
        starts = [int(generator.integers(0, whole - side + 1)) for whole, side in zip(image_hw, sides, strict=True)]
        mirrored = self.mirror and bool(generator.random() < 0.5)
        brightness, contrast, saturation, gamma = (
            float(generator.uniform(*factors))
            for factors in (self.brightness, self.contrast, self.saturation, self.gamma)
        )
        red, green, blue = (float(gain) for gain in generator.uniform(*self.gains, 3))
        return Version(
            top=starts[0] / image_hw[0],
            left=starts[1] / image_hw[1],
            height=sides[0] / image_hw[0],
            width=sides[1] / image_hw[1],
            mirrored=mirrored,
            rotation_deg=float(generator.uniform(-self.rotation_deg, self.rotation_deg)),
            photo_aspect=image_hw[1] / image_hw[0] if self.rotation_deg else None,
            gamma=gamma,
            brightness=brightness,
            contrast=contrast,
            saturation=saturation,
            gains=(red, green, blue),
        )


def _published(crop_hw: tuple[int, int]) -> Augmentation:
    """That of arXiv 2601.17657."""
    factors = (0.9, 1.1)
    return Augmentation(crop_hw=crop_hw, rotation_deg=0.5, gamma=factors, brightness=factors, gains=factors)


_WIDE = (0.7, 1.3)

AUGMENTATIONS: dict[str, Augmentation] = {
    "recommended": Augmentation(0.7, brightness=_WIDE, contrast=_WIDE, saturation=_WIDE, gains=(0.9, 1.1)),
    "published-nyu": _published((480, 640)),
    "published-kitti": _published((352, 704)),
}
