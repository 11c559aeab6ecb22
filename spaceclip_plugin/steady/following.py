"""Where what was seen before is now: by the camera's places, the motion that images show, or one by one."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from spaceclip_plugin.steady.fusion import FusedDepth, GridDepth
from spaceclip_plugin.steady.grid import ON_ONE_SURFACE, cell_centres, nearby_extremes, sampled
from spaceclip_plugin.steady.look import Look
from spaceclip_plugin.steady.matching import agreement, matched_places
from spaceclip_plugin.steady.motion import Motion, Rays, between_cells, carried, places_before
from spaceclip_plugin.steady.motion_seen import motion_seen

OTHERWISE = "the images do not move as the camera's places say"
OTHER_WAY = (
    "the images move as if the camera's places were the other way round: they are camera to world, the fourth column "
    "is where the camera is"
)

_SAME = 0.15  # agreement from which on a cell may show what it showed
_UNUSUAL, _LEAST_UNLIKE = 10.0, 0.05
"""Times the median of what agreement lacks, from which on a cell of images that agree better shows something else; and
what any may lack."""
_TRUSTED = 0.6  # share of cells in view that must agree for a motion to be believed
_BETTER = 0.1  # share of cells by which images must fit better without the places that were told, to doubt them
_FEWEST = 0.08  # share of cells that must be found again for a video to go on
_SURE, _FEWEST_SURE = 0.6, 0.35  # agreement, and the share of cells in view that reaches it; less is another image
_FITS = 1.0  # cells that a surface may be off where the camera's motion brings it
_AT_REST = 0.6  # share of what is shown that must look the same in the same place, for the camera not to have moved
_STILL = 0.1  # cells


@dataclass(frozen=True, eq=False)
class Told:
    """The camera's motion since the frame before, by places that were told, and if those were the other way round."""

    onward: Motion
    reverse: Motion

    @classmethod
    def by_places(cls, before: Tensor, now: Tensor) -> Told:
        """From two places, (4, 4) camera to world each."""
        old, new = before.numpy(), now.numpy()
        return cls(Motion.of(np.linalg.inv(new) @ old), Motion.of(new @ np.linalg.inv(old)))


@dataclass(frozen=True, eq=False)
class Found:
    """Earlier depth where the present frame sees it.

    Attributes:
        earlier: known where cells show the surface they showed.
        still: (h, w) bool, cells that show it in the same place, as do their neighbours.
        agreeing: share of the cells in view that agree.
        doubt: why the camera's places were not believed; None where they were, or were not told.
    """

    earlier: FusedDepth
    still: Tensor
    agreeing: float
    doubt: str | None = None


@dataclass(frozen=True, eq=False)
class Pair:
    """Two frames of one camera, the earlier one's depth fused.

    Attributes:
        old, new: their looks.
        whole: depth of the earlier, in metres as far as they are known.
        frame: depth of the present one, at the same scale.
        rays: of both; None where the camera's lens is not known.
    """

    old: Look
    new: Look
    whole: FusedDepth
    frame: GridDepth
    rays: Rays | None

    def follow(self, told: Told | None) -> Found | None:
        """Earlier depth as the present frame sees it; None where the two have next to nothing in common."""
        if told is None or self.rays is None:
            return self._unaided()
        by_places = self._moved(self.rays, told.onward, self.frame.log_depth)
        agreeing = 0.0 if by_places is None else by_places.agreeing
        if agreeing >= _TRUSTED:
            return by_places
        unaided = self._unaided()
        if unaided is None or unaided.agreeing < agreeing + _BETTER:
            return by_places
        reverse = self._moved(self.rays, told.reverse, self.frame.log_depth)
        other_way = reverse is not None and reverse.agreeing >= agreeing + _BETTER
        return replace(unaided, doubt=OTHER_WAY if other_way else OTHERWISE)

    def _unaided(self) -> Found | None:
        """By the images alone: as one motion of the camera where most of them shows one, else surface by surface."""
        at_rest = cell_centres(self.new.grid_hw)
        alike = self._alike(at_rest)
        if float((alike >= 1 - _LEAST_UNLIKE).float().mean()) >= _AT_REST * float(self.frame.shown.float().mean()):
            known = self.whole.known & _same(alike)
            return _found(FusedDepth(self.whole.log_depth, self.whole.variance, known), at_rest, alike)
        places = matched_places(self.new, self.old)
        alike = self._alike(places)
        # Distance, not depth, is what a camera that turns leaves as it is.
        longer = torch.zeros_like(alike) if self.rays is None else self.rays.log_lengths
        whole = self.whole
        maps = torch.stack([whole.log_depth, whole.log_depth + longer, whole.variance, whole.known.to(alike)])
        (log_depth, log_length, variance, known), inside = sampled(maps, places)
        same = inside & _same(alike) & (known > ON_ONE_SURFACE)
        count = same.sum()
        if float(count) < _FEWEST * same.numel():
            return None
        if self.rays is not None:
            onward, off = motion_seen(self.rays, self.rays.through(places) * log_depth.exp(), same)
            if float((same & (off < _FITS)).sum() / count) >= _TRUSTED:
                found = self._moved(self.rays, onward, log_depth)
                if found is not None:
                    return found
        return _found(FusedDepth(log_length - longer, variance, same), places, alike)

    def _moved(self, rays: Rays, onward: Motion, log_depth: Tensor) -> Found | None:
        """Along a motion of the camera; `log_depth` is of cells that nothing was carried to."""
        seen = carried(rays, self.whole, onward)
        places = places_before(rays, torch.where(seen.known, seen.log_depth, log_depth), onward.inverse())
        seen = between_cells(rays, self.whole, seen, places, onward)
        alike = self._alike(places)
        return _found(FusedDepth(seen.log_depth, seen.variance, seen.known & _same(alike)), places, alike)

    def _alike(self, places: Tensor) -> Tensor:
        """(h, w) agreement of what is shown with what was at those places; NaN where nothing is shown, or was."""
        alike, inside = agreement(self.new.grey, self.old.grey, places)
        return alike.masked_fill(~(inside & self.frame.shown), torch.nan)


def _found(earlier: FusedDepth, places: Tensor, alike: Tensor) -> Found | None:
    """What was found at those places; None where it is too little, or what any two images have in common."""
    in_view = (~alike.isnan()).sum().clamp_min(1)
    if float((alike > _SURE).sum() / in_view) < _FEWEST_SURE or float(earlier.known.float().mean()) < _FEWEST:
        return None
    moved = (places - cell_centres((alike.shape[0], alike.shape[1]))).square().sum(dim=0)
    still = (moved <= _STILL**2) & (alike >= 1 - _LEAST_UNLIKE)
    still_about, _ = nearby_extremes(still.to(alike))
    return Found(earlier, still_about > 0, float((alike > _SAME).sum() / in_view))


def _same(alike: Tensor) -> Tensor:
    """(h, w) bool, which cells show what they showed: the more alike most of them are, the more is asked of each."""
    unlike = 1 - alike
    return unlike < (_UNUSUAL * unlike.nanmedian()).clamp(_LEAST_UNLIKE, 1 - _SAME)
