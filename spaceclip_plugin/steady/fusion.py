"""Depth of one frame on the grid, and its fusion with what earlier frames gave."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from spaceclip_plugin.depth.error_shares import error_shares
from spaceclip_plugin.steady.grid import Cells, Mask, median, nearby_extremes
from spaceclip_plugin.steady.pixels import PixelDepth, calmed

_LEAST_LOCAL_SD = 0.05  # in ln depth
_UNTOLD_LOCAL_SD, _SCENE_SD = 0.15, 0.2  # of a head that tells no uncertainty; of its scale in one scene
_CORRELATED = 5.0
"""Frames that are worth one: a head errs alike in views that are alike, so that a hundred frames do not tell ten times
as much as one."""
_DRIFT_VARIANCE = 0.02**2  # of what is carried from frame to frame
_HALF = 0.5
_LEAST_M = 1e-6
_GATE = 2.0  # standard deviations
_FEWEST = 0.02  # share of cells that tell of the offset
_EDGE, _EDGE_SDS = 0.1, 1.5  # in ln depth, and in standard deviations, between neighbours that are two surfaces


@dataclass(frozen=True, eq=False)
class GridDepth:
    """Depth of one frame on the grid (h, w).

    Attributes:
        log_depth: ln metres, of the mean over each cell.
        variance: of its local error, in ln depth.
        known: bool, whether at least half of the cell is valid, and it shows one surface.
        shown: bool, whether at least half of it is valid: padding tells nothing of motion either.
        scale_variance: that all cells have in common, in ln depth.
    """

    log_depth: Cells
    variance: Cells
    known: Mask
    shown: Mask
    scale_variance: float

    @classmethod
    def of(cls, pixels: PixelDepth, grid_hw: tuple[int, int]) -> GridDepth:
        """That of an image."""
        share, mean_m, variance_m = pixels.cell_means(grid_hw)
        mean_m = np.maximum(mean_m, _LEAST_M)
        log_depth, strange = np.log(mean_m), pixels.strange_sd
        if variance_m is None:
            local, common = np.full_like(mean_m, _UNTOLD_LOCAL_SD**2), _SCENE_SD**2
        else:
            local, of_scale = error_shares(variance_m / (mean_m * mean_m), strange_sd=strange, scene_sd=_SCENE_SD)
            local, common = np.maximum(local, _LEAST_LOCAL_SD**2), median(of_scale)
        shown = share >= _HALF
        return cls(log_depth, local, shown & _smooth(log_depth, local), shown, strange**2 + common)

    def scaled(self, log_factor: float) -> GridDepth:
        """The same, larger by that factor."""
        return replace(self, log_depth=self.log_depth + log_factor)


def _smooth(log_depth: Cells, variance: Cells) -> Mask:
    """(h, w) bool, which cells show one surface: neighbours differ by no more than a head errs between them."""
    smallest, largest = nearby_extremes(log_depth)
    return largest - smallest < np.maximum(_EDGE_SDS * np.sqrt(variance), _EDGE)


@dataclass(frozen=True, eq=False)
class FusedDepth:
    """What all frames since the last new beginning say, on the grid of the newest: (h, w) each.

    Attributes:
        log_depth: ln metres.
        variance: of its local error, in ln depth.
        known: bool, whether that is depth of one surface.
    """

    log_depth: Cells
    variance: Cells
    known: Mask

    @classmethod
    def alone(cls, frame: GridDepth) -> FusedDepth:
        """A new beginning."""
        return cls(frame.log_depth, frame.variance, frame.known)

    def scaled(self, log_factor: float) -> FusedDepth:
        """The same, larger by that factor."""
        return replace(self, log_depth=self.log_depth + log_factor)


def fused(earlier: FusedDepth, frame: GridDepth, offset: float) -> tuple[FusedDepth, Mask]:
    """Both together, and (h, w) bool where the earlier frames had a say.

    Args:
        earlier: carried to where the frame sees it, known only where it shows the same surface.
        frame: the present one.
        offset: by which it is larger, in ln depth.
    """
    brought = frame.log_depth - offset
    prior = earlier.variance + _DRIFT_VARIANCE
    off = brought - earlier.log_depth
    both = earlier.known & frame.known & (off * off < _GATE**2 * (prior + frame.variance))
    gain = prior / (prior + _CORRELATED * frame.variance)
    log_depth = np.where(both, earlier.log_depth + gain * off, brought)
    variance = np.where(both, (1 - gain) * prior, frame.variance)
    return FusedDepth(log_depth, variance, frame.known), both


def offset_of(earlier: FusedDepth, frame: GridDepth | FusedDepth) -> float | None:
    """By which a frame is larger than what is carried, in ln depth: the median over cells that both know.

    None where next to none is known by both.
    """
    both = earlier.known & frame.known
    if np.count_nonzero(both) < _FEWEST * both.size:
        return None
    return median((frame.log_depth - earlier.log_depth)[both])


def refined(pixels: PixelDepth, frame: GridDepth, whole: FusedDepth, before: tuple[Cells, Mask] | None = None) -> Cells:
    """(H, W) metres of a frame as all frames say, at their scale; edges are the frame's own.

    Args:
        pixels: of the frame.
        frame: the same on the grid.
        whole: what all frames say, on the grid.
        before: (H, W) metres that this gave for the frame before, at the same scale, and (h, w) bool, where nothing has
            moved: there every pixel goes on from what it was.
    """
    refined_m = pixels.times(np.where(frame.known, np.exp(whole.log_depth - frame.log_depth), np.float32(1)))
    if before is None:
        return refined_m
    before_m, still = before
    return calmed(refined_m, before_m, _GATE * np.sqrt(frame.variance) * still, 1 / _CORRELATED)


def uncertainty_of(pixels: PixelDepth, depth_m: Cells, frame: GridDepth, scale_sd: float) -> Cells | None:
    """(H, W) metres of standard deviation of what a frame's depth became; None where its head tells none.

    Of the head's own uncertainty the scale's share is replaced by what is left unknown of the scale; its local error is
    as large as ever, for a head errs alike in frames that are alike.
    """
    return pixels.uncertainty_of(depth_m, less=frame.scale_variance, more=scale_sd**2, least=_LEAST_LOCAL_SD**2)
