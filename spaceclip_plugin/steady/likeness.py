"""How alike two images look, cell by cell: what tells whether a surface was found again."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from typing_extensions import Self

from spaceclip_plugin.steady.grid import Cells, Mask, as_array, median, window_mean
from spaceclip_plugin.steady.look import Look

_NOISE = 2e-3  # variance of grey within a window that is no contrast
_WINDOW = 5  # cells


@dataclass(frozen=True, eq=False)
class Pattern:
    """What is seen about each cell, in small windows.

    Attributes:
        grey: (1, h, w).
        mean, variance: (h, w) of the windows; with some noise, which makes two flat ones alike.
    """

    grey: Cells
    mean: Cells
    variance: Cells

    @classmethod
    def of(cls, grey: Cells) -> Self:
        """That of cells (1, h, w)."""
        mean, square = window_mean(np.concatenate([grey, grey * grey]), _WINDOW)
        return cls(grey, mean, np.maximum(square - mean * mean, 0) + _NOISE)

    @cached_property
    def shows(self) -> Mask:
        """(h, w) bool, where there is more than noise."""
        return self.variance > 2 * _NOISE

    @cached_property
    def contrast(self) -> float:
        """Variance of the whole image."""
        return max(float(self.grey.var(ddof=1)), _NOISE)


@dataclass(frozen=True, eq=False)
class Image:
    """One image as it is compared with others.

    Attributes:
        grey: (1, h, w), see `Look`.
        tokens: (C, r, c), likewise.
    """

    grey: Cells
    tokens: Cells

    @classmethod
    def several(cls, look: Look) -> list[Self]:
        """Those of a look."""
        grey, tokens = as_array(look.grey), as_array(look.tokens)
        return [cls(grey[at : at + 1], tokens[at]) for at in range(len(grey))]

    @cached_property
    def pattern(self) -> Pattern:
        """What it shows."""
        return Pattern.of(self.grey)

    @property
    def grid_hw(self) -> tuple[int, int]:
        """(h, w) of the grid of cells."""
        return self.grey.shape[1], self.grey.shape[2]

    def is_finite(self) -> bool:
        """Whether no cell holds NaN or infinity."""
        return bool(np.isfinite(self.grey.sum() + self.tokens.sum()))


def agreement(new: Pattern, old: Pattern) -> Cells:
    """(h, w) how alike two patterns are in each cell.

    The correlation of small windows, from -1 to 1; the less, the more they differ in brightness, measured by the
    contrast of the whole image.
    """
    [product] = window_mean(new.grey * old.grey, _WINDOW)
    alike: Cells = (product - new.mean * old.mean + _NOISE) / np.sqrt(new.variance * old.variance)
    off = new.mean - old.mean
    off -= median(off)  # exposure
    off *= off
    off /= -new.contrast
    alike *= np.exp(off)
    return alike
