"""Depth of one frame pixel by pixel: made out of what is known on the grid, so that edges are the frame's own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch

from spaceclip_plugin.depth import DepthMap
from spaceclip_plugin.depth.strangeness import strange_sd
from spaceclip_plugin.steady.grid import Cells, Mask, as_array, cell_means, spread

_LEAST_M = 1e-6


@dataclass(frozen=True, eq=False)
class PixelDepth:
    """Depth of one image as its head gives it, (H, W) each, on the CPU wherever the head is.

    Attributes:
        depth_m: metres.
        uncertainty_m: metres of standard deviation; None where the head tells none.
        valid: bool.
        strange_sd: of its scale, beyond the head's own, for its image is of a strange kind; in ln depth.
    """

    depth_m: Cells
    uncertainty_m: Cells | None
    valid: Mask
    strange_sd: float

    @classmethod
    def several(cls, depth: DepthMap) -> Iterator[PixelDepth]:
        """Those of a map; memory is shared where it can be."""
        depth_m, valid = as_array(depth.depth_m), as_array(depth.valid)
        sd_m = [None] * len(depth) if depth.uncertainty_m is None else as_array(depth.uncertainty_m)
        strange = [0.0] * len(depth) if depth.familiarity is None else strange_sd(depth.familiarity).tolist()
        return map(cls, depth_m, sd_m, valid, strange)

    def cell_means(self, grid_hw: tuple[int, int]) -> tuple[Cells, Cells, Cells | None]:
        """(h, w) means over the cells of a grid: the share that is valid, and of that depth and squared uncertainty."""
        sd_m = self.uncertainty_m
        depth_m, variance_m = self.depth_m, None if sd_m is None else sd_m * sd_m
        if self.valid.all():
            share = np.ones(grid_hw, dtype=np.float32)
            return share, _means(depth_m, grid_hw), None if variance_m is None else _means(variance_m, grid_hw)
        share = _means(self.valid.astype(np.float32), grid_hw)
        shown = np.maximum(share, np.float32(_LEAST_M))
        mean_m = _means(depth_m * self.valid, grid_hw) / shown
        return share, mean_m, None if variance_m is None else _means(variance_m * self.valid, grid_hw) / shown

    def times(self, factor: Cells) -> Cells:
        """(H, W) metres of its depth times what is between the cells of a grid (h, w)."""
        height, width = self.depth_m.shape
        found: Cells = spread(factor[None], (height, width))[0]
        found *= self.depth_m
        return found

    def uncertainty_of(self, depth_m: Cells, *, less: float, more: float, least: float) -> Cells | None:
        """(H, W) metres of standard deviation of what its depth became; None where its head tells none.

        Args:
            depth_m: that, (H, W) metres.
            less: variance in ln depth that the head's own is made smaller by.
            more: that the rest is made larger by.
            least: that the rest is at least.
        """
        if self.uncertainty_m is None:
            return None
        found: Cells = np.maximum(self.depth_m, np.float32(_LEAST_M))
        np.divide(self.uncertainty_m, found, out=found)
        found *= found
        found -= less - more
        np.maximum(found, np.float32(least + more), out=found)
        np.sqrt(found, out=found)
        found *= depth_m
        return found


def calmed(depth_m: Cells, before_m: Cells, tolerance: npt.NDArray[np.floating], part: float) -> Cells:
    """(H, W) metres that go no more than a part of the way from what was before, wherever the whole is not far.

    Args:
        depth_m, before_m: (H, W) metres.
        tolerance: (h, w) how far that is, as a share of what was before, in the pixels of each cell.
        part: of the way.
    """
    off_m = depth_m - before_m
    rows, columns = (_cells_of(*sides) for sides in zip(depth_m.shape, tolerance.shape, strict=True))
    within_m = tolerance.take(columns, axis=1).take(rows, axis=0) * before_m
    off_m *= np.abs(off_m) < within_m  # much cheaper than to choose pixel by pixel
    off_m *= 1 - part
    return depth_m - off_m


def _means(values: Cells, grid_hw: tuple[int, int]) -> Cells:
    """(h, w) means of (H, W) over the cells of a grid."""
    steps = [count // of for count, of in zip(values.shape, grid_hw, strict=True)]
    if (grid_hw[0] * steps[0], grid_hw[1] * steps[1]) != values.shape:
        means: Cells = as_array(cell_means(torch.from_numpy(values)[None], grid_hw)[0])
        return means
    rows: Cells = sum(values[at :: steps[0]] for at in range(1, steps[0])) + values[:: steps[0]]
    cells: Cells = sum(rows[:, at :: steps[1]] for at in range(1, steps[1])) + rows[:, :: steps[1]]
    cells /= steps[0] * steps[1]
    return cells


@lru_cache(maxsize=16)
def _cells_of(count: int, of: int) -> npt.NDArray[np.intp]:
    """(count,) which of so many cells each pixel along an axis lies in."""
    return (np.arange(count) * 2 + 1) * of // (2 * count)
