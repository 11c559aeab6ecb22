"""Procedural textures without assets: tileable grey patterns, mip-mapped.

A pattern is a mixing weight in [0, 1] between the two colours of a material, so few patterns make endless surfaces.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Pattern = npt.NDArray[np.float64]

TEXTURE_VARIANTS = 4
_SIZE = 256  # texels along one side of a tile, a power of two
_LEVELS = 8  # mip levels: 256 ... 2
_LEVEL_TEXELS = (_SIZE >> np.arange(_LEVELS, dtype=np.int64)) ** 2
_PYRAMID_TEXELS = int(_LEVEL_TEXELS.sum())


def _coordinates() -> tuple[Pattern, Pattern]:
    """Texel centres along x and y of one tile, each (SIZE, SIZE) in (0, 1)."""
    centres = (np.arange(_SIZE) + 0.5) / _SIZE
    x, y = np.meshgrid(centres, centres)
    return x, y


def _value_noise(generator: np.random.Generator, cells_y: int, cells_x: int) -> Pattern:
    """Smooth random values on a lattice that wraps around, (SIZE, SIZE) in [0, 1]."""

    def weights(cells: int) -> Pattern:
        position = (np.arange(_SIZE) + 0.5) / _SIZE * cells
        cell = position.astype(int)
        blend = position - cell
        blend = blend * blend * (3.0 - 2.0 * blend)
        matrix = np.zeros((_SIZE, cells))
        rows = np.arange(_SIZE)
        matrix[rows, cell] += 1.0 - blend
        matrix[rows, (cell + 1) % cells] += blend
        return matrix

    noise: Pattern = weights(cells_y) @ generator.random((cells_y, cells_x)) @ weights(cells_x).T
    return noise


def _fractal_noise(generator: np.random.Generator, cells: int = 4, octaves: int = 5) -> Pattern:
    """Octaves of value noise, stretched to exactly [0, 1]."""
    noise = sum(0.55**i * _value_noise(generator, cells * 2**i, cells * 2**i) for i in range(octaves))
    return _stretched(np.asarray(noise))


def _stretched(values: Pattern) -> Pattern:
    low, high = values.min(), values.max()
    stretched: Pattern = (values - low) / (high - low)
    return stretched


def _plain(generator: np.random.Generator) -> Pattern:
    return 0.3 + 0.12 * _fractal_noise(generator, cells=32, octaves=3)


def _cloudy(generator: np.random.Generator) -> Pattern:
    return _fractal_noise(generator)


def _marble(generator: np.random.Generator) -> Pattern:
    x, y = _coordinates()
    phase = int(generator.integers(1, 4)) * x + int(generator.integers(1, 4)) * y + 2.0 * _fractal_noise(generator, 3)
    veins: Pattern = 1.0 - np.abs(np.sin(np.pi * phase)) ** 0.35
    return veins


def _wood(generator: np.random.Generator) -> Pattern:
    _, y = _coordinates()
    bend = _value_noise(generator, 3, 2) + 0.2 * _value_noise(generator, 8, 4)
    rings = (int(generator.integers(5, 12)) * y + 1.5 * bend) % 1.0
    fibres = _value_noise(generator, 128, 4)
    return 0.45 * rings**2 + 0.2 * _value_noise(generator, 16, 2) + 0.35 * fibres


def _planks(generator: np.random.Generator) -> Pattern:
    x, y = _coordinates()
    count = int(generator.integers(4, 8))
    plank = (y * count).astype(int)
    tone = generator.random(count)[plank]
    joint = (x + generator.random(count)[plank]) % 1.0
    gap = ((y * count) % 1.0 < 0.05) | (joint < 0.006)
    fibres = _value_noise(generator, 128, 5)
    return np.where(gap, 1.0, 0.1 + 0.4 * tone + 0.3 * fibres)


def _stripes(generator: np.random.Generator) -> Pattern:
    x, _ = _coordinates()
    count, duty = int(generator.integers(3, 8)), generator.uniform(0.25, 0.6)
    return 0.85 * ((x * count) % 1.0 < duty) + 0.15 * _fractal_noise(generator, cells=16, octaves=3)


def _checker(generator: np.random.Generator) -> Pattern:
    x, y = _coordinates()
    pairs = int(generator.integers(2, 5))
    squares = ((x * pairs) % 1.0 < 0.5) ^ ((y * pairs) % 1.0 < 0.5)
    return 0.85 * squares + 0.15 * _fractal_noise(generator, cells=16, octaves=3)


def _tiles(generator: np.random.Generator) -> Pattern:
    x, y = _coordinates()
    rows, columns = 2 * int(generator.integers(2, 5)), int(generator.integers(2, 5))
    row = (y * rows).astype(int)
    across = (x * columns + generator.choice([0.0, 0.5]) * (row % 2)) % columns
    joint = ((y * rows) % 1.0 < 0.07) | (across % 1.0 < 0.07 * columns / rows)
    tone = generator.random((rows, columns))[row, across.astype(int)]
    return np.where(joint, 1.0, 0.4 * tone + 0.15 * _fractal_noise(generator, cells=16, octaves=3))


def _speckle(generator: np.random.Generator) -> Pattern:
    grains = _value_noise(generator, 64, 64) + 0.5 * _value_noise(generator, 128, 128)
    return _stretched(np.tanh(8.0 * (grains - grains.mean() - 0.15)))


def _dots(generator: np.random.Generator) -> Pattern:
    x, y = _coordinates()
    count, radius = int(generator.integers(3, 7)), generator.uniform(0.2, 0.38)
    distance = np.hypot((x * count) % 1.0 - 0.5, (y * count) % 1.0 - 0.5)
    return 0.85 * (distance < radius) + 0.15 * _fractal_noise(generator, cells=16, octaves=3)


_PATTERNS: dict[str, Callable[[np.random.Generator], Pattern]] = {
    "plain": _plain,
    "cloudy": _cloudy,
    "marble": _marble,
    "wood": _wood,
    "planks": _planks,
    "stripes": _stripes,
    "checker": _checker,
    "tiles": _tiles,
    "speckle": _speckle,
    "dots": _dots,
}
TEXTURE_NAMES = tuple(_PATTERNS)


@dataclass(frozen=True, eq=False)
class TextureBank:
    """Every variant of every pattern with its mip levels, in one flat tensor so that one gather reads them all.

    Attributes:
        texels: (textures * texels per pyramid,) float32 in [0, 1].
        level_start: (levels,) int64, where each mip level begins within a pyramid.
    """

    texels: Tensor
    level_start: Tensor

    @staticmethod
    def index(name: str, variant: int) -> int:
        """Where a pattern lies in the bank."""
        return TEXTURE_NAMES.index(name) * TEXTURE_VARIANTS + variant

    def pattern(self, name: str, variant: int) -> Pattern:
        """A variant of a pattern as it was made, (256, 256) in [0, 1]."""
        start = self.index(name, variant) * _PYRAMID_TEXELS
        return self.texels[start : start + _SIZE**2].reshape(_SIZE, _SIZE).numpy().astype(np.float64)

    def sample(self, texture: Tensor, uv: Tensor, *, footprint: Tensor) -> Tensor:
        """Bilinear read of the mip level in which a pixel covers about one texel.

        Args:
            texture: (N,) int64 from `index`.
            uv: (2, N) position in tiles; wraps around.
            footprint: (N,) width of a pixel on the surface, in tiles.

        Returns:
            (N,) mixing weight in [0, 1].
        """
        level = torch.log2(footprint * _SIZE).round_().clamp_(0, _LEVELS - 1).to(torch.int64)
        size = torch.bitwise_right_shift(_SIZE, level)
        start = texture * _PYRAMID_TEXELS + self.level_start.index_select(0, level)
        position = (uv - uv.floor()) * size - 0.5
        low = position.floor()
        blend_x, blend_y = position - low
        column, row = low.to(torch.int64)
        # Sizes are powers of two, so a mask wraps -1 and `size` alike.
        mask = size - 1
        left, right = column & mask, (column + 1) & mask
        top, bottom = start + (row & mask) * size, start + ((row + 1) & mask) * size
        above = torch.lerp(self.texels[top + left], self.texels[top + right], blend_x)
        below = torch.lerp(self.texels[bottom + left], self.texels[bottom + right], blend_x)
        return torch.lerp(above, below, blend_y)


@lru_cache(maxsize=1)
def texture_bank() -> TextureBank:
    """The bank all scenes share, made on first use (about 0.15 s, 14 MB) and the same in every process."""
    pyramids = []
    for kind, pattern in enumerate(_PATTERNS.values()):
        for variant in range(TEXTURE_VARIANTS):
            generator = np.random.default_rng(np.random.SeedSequence(kind, spawn_key=(variant,)))
            level = torch.from_numpy(pattern(generator)).to(torch.float32)[None]
            for _ in range(_LEVELS):
                pyramids.append(level.flatten())
                level = torch.nn.functional.avg_pool2d(level, 2)
    level_start = np.cumsum(_LEVEL_TEXELS) - _LEVEL_TEXELS
    return TextureBank(torch.cat(pyramids), torch.from_numpy(level_start))
