"""Versions of a training image: as photographed, mirrored, and random crops in other colours, each with its own depth.

A frozen tower is run over every version once, so the versions of an image are few, and known by number.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

SMALLEST_CROP = 0.7
COLOUR_FACTORS = (0.7, 1.3)
GAINS = (0.9, 1.1)


@dataclass(frozen=True, slots=True)
class View:
    """One version of an image; the defaults are the image as photographed.

    Attributes:
        top, left, height, width: what of the image is seen, as fractions of its height and width.
        mirrored: whether left and right are swapped, after the crop.
        brightness, contrast, saturation: factors, in that order, as Pillow's ImageEnhance takes them.
        gains: factors of red, green and blue.
    """

    top: float = 0.0
    left: float = 0.0
    height: float = 1.0
    width: float = 1.0
    mirrored: bool = False
    brightness: float = 1.0
    contrast: float = 1.0
    saturation: float = 1.0
    gains: tuple[float, float, float] = (1.0, 1.0, 1.0)

    @property
    def scale(self) -> float:
        """Side of the crop relative to the image's (geometric mean of both sides)."""
        return math.sqrt(self.height * self.width)

    def image(self, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """The version of an image.

        Args:
            image: (H, W, 3) uint8 RGB.

        Returns:
            (h, w, 3) uint8, the crop in its own pixels.
        """
        height, width = image.shape[:2]
        rows = slice(round(self.top * height), round((self.top + self.height) * height))
        columns = slice(round(self.left * width), round((self.left + self.width) * width))
        seen = image[rows, columns]
        return self._recoloured(np.ascontiguousarray(seen[:, ::-1] if self.mirrored else seen))

    def target(self, depth_m: npt.NDArray[np.float32], hw: tuple[int, int]) -> npt.NDArray[np.float32]:
        """The depth that belongs to `image`.

        A crop fills the tower's input like a whole image: to a head that takes every image to be of one focal length,
        zooming in by 1/s makes everything look s times as far. Metres are scaled by `scale` for that reason (focal
        canonicalisation: Yin et al., "Metric3D", 2023, section 3.2).

        Args:
            depth_m: (H, W) metres of the whole image, at any resolution; 0 where unknown.
            hw: size of the result in pixels.

        Returns:
            (h, w) float32 metres of size `hw`, each that of the nearest pixel, or of a known one within the same cell
            where that is unknown (sparse depth, made smaller, would lose most of it); 0 where all are.
        """
        height, width = depth_m.shape
        cells = max(math.ceil(self.height * height / hw[0]), math.ceil(self.width * width / hw[1]))
        seen = self._sampled(depth_m, hw, 0.5, 0.5)
        for place in itertools.product((np.arange(cells) + 0.5) / cells, repeat=2):
            if seen.all():
                break
            seen = np.where(seen > 0, seen, self._sampled(depth_m, hw, *place))
        if self.mirrored:
            seen = seen[:, ::-1]
        target: npt.NDArray[np.float32] = seen * np.float32(self.scale)
        return target

    def _sampled(
        self, depth_m: npt.NDArray[np.float32], hw: tuple[int, int], down: float, right: float
    ) -> npt.NDArray[np.float32]:
        """The pixels that lie that far into each of the result's cells, as photographed."""
        rows = _nearest(self.top, self.height, hw[0], depth_m.shape[0], down)
        columns = _nearest(self.left, self.width, hw[1], depth_m.shape[1], right)
        return depth_m[rows[:, None], columns]

    def _recoloured(self, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        if (self.brightness, self.contrast, self.saturation, *self.gains) == (1.0,) * 6:
            return image
        from PIL import Image, ImageEnhance

        photo = Image.fromarray(image)
        photo = ImageEnhance.Brightness(photo).enhance(self.brightness)
        photo = ImageEnhance.Contrast(photo).enhance(self.contrast)
        photo = ImageEnhance.Color(photo).enhance(self.saturation)
        pixels = np.asarray(photo, dtype=np.float32) * np.asarray(self.gains, dtype=np.float32)
        return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)


def views_of(count: int, *, seed: int, index: int, image_hw: tuple[int, int]) -> tuple[View, ...]:
    """The first `count` versions of image `index`: as photographed, mirrored, then random ones.

    A random one shows 0.7 to 1 of either side, somewhere, mirrored or not, in other colours. Which they are depends on
    `seed`, `index` and the image's size alone: fewer views are the first of more.

    Args:
        count: how many, at least 1.
        seed, index: not negative.
        image_hw: size of the image in pixels; crops end at its pixels' borders.
    """
    generator = np.random.default_rng([seed, index])
    fixed = (View(), View(mirrored=True))
    return (*fixed[:count], *(_random_view(generator, image_hw) for _ in range(count - len(fixed))))


def _random_view(generator: np.random.Generator, image_hw: tuple[int, int]) -> View:
    scale = generator.uniform(SMALLEST_CROP, 1.0)
    sides = [max(1, round(scale * side)) for side in image_hw]
    starts = [int(generator.integers(0, whole - side + 1)) for whole, side in zip(image_hw, sides, strict=True)]
    mirrored = bool(generator.random() < 0.5)
    brightness, contrast, saturation = (float(factor) for factor in generator.uniform(*COLOUR_FACTORS, 3))
    red, green, blue = (float(gain) for gain in generator.uniform(*GAINS, 3))
    return View(
        top=starts[0] / image_hw[0],
        left=starts[1] / image_hw[1],
        height=sides[0] / image_hw[0],
        width=sides[1] / image_hw[1],
        mirrored=mirrored,
        brightness=brightness,
        contrast=contrast,
        saturation=saturation,
        gains=(red, green, blue),
    )


def _nearest(start: float, extent: float, count: int, size: int, place: float) -> npt.NDArray[np.intp]:
    """The pixels, of `size`, that points of `count` cells over [start, start + extent) fall into; 0.5: the centres."""
    centres = (start + extent * (np.arange(count) + place) / count) * size
    # Halving puts every centre on a border between pixels: rounding errors must not choose the side.
    return np.minimum((centres + 1e-6).astype(np.intp), size - 1)
