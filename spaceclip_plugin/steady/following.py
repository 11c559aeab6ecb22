"""Where what was seen before is now: by the camera's places, the motion that images show, or one by one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from spaceclip_plugin.steady.fusion import FusedDepth, GridDepth
from spaceclip_plugin.steady.grid import (
    ON_ONE_SURFACE,
    Cells,
    Mask,
    all_nearby,
    cell_centres,
    median,
    sampled,
)
from spaceclip_plugin.steady.likeness import Image, Pattern, agreement
from spaceclip_plugin.steady.matching import matched_places
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
_NEARLY_AT_REST = 0.85  # likewise of what has contrast, for it not to have moved far
_STILL, _FEWEST_STILL = 0.1, 0.05  # cells; share of them, for it to be of use to know

Place = npt.NDArray[np.float64]
"""Where a camera was, (4, 4) camera to world."""


@dataclass(frozen=True, eq=False)
class Told:
    """The camera's motion since the frame before, by places that were told, and if those were the other way round."""

    before: Place
    now: Place

    @cached_property
    def onward(self) -> Motion:
        """As it was told."""
        turned = self.now[:3, :3].T
        return Motion.of(turned @ self.before[:3, :3], turned @ (self.before[:3, 3] - self.now[:3, 3]))

    @cached_property
    def reverse(self) -> Motion:
        """If the places are world to camera."""
        rotation = self.now[:3, :3] @ self.before[:3, :3].T
        return Motion.of(rotation, self.now[:3, 3] - rotation @ self.before[:3, 3])


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
    still: Mask
    agreeing: float
    doubt: str | None = None

    @property
    def rests(self) -> bool:
        """Whether more than a few cells are still."""
        return bool(np.count_nonzero(self.still) >= _FEWEST_STILL * self.still.size)


@dataclass(frozen=True, eq=False)
class Pair:
    """Two frames of one camera, the earlier one's depth fused.

    Attributes:
        old, new: their images.
        whole: depth of the earlier, in metres as far as they are known.
        frame: depth of the present one, at the same scale.
        rays: of both; None where the camera's lens is not known.
    """

    old: Image
    new: Image
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
        alike = agreement(self.new.pattern, self.old.pattern)
        alike[~self.frame.shown] = np.nan
        if np.count_nonzero(alike >= 1 - _LEAST_UNLIKE) >= _AT_REST * np.count_nonzero(self.frame.shown):
            known = self.whole.known & _same(alike)
            return _found(FusedDepth(self.whole.log_depth, self.whole.variance, known), at_rest, alike)
        has_contrast = self.new.pattern.shows & self.frame.shown
        nearly = np.count_nonzero(has_contrast & (alike > _SURE)) >= _NEARLY_AT_REST * np.count_nonzero(has_contrast)
        places = matched_places(self.new, self.old, small=bool(nearly))
        whole = self.whole
        maps = np.array([self.old.grey[0], whole.log_depth, whole.known], dtype=np.float32)
        (grey, log_depth, known), inside = sampled(maps, places)
        alike = self._alike(grey, inside)
        same = inside & _same(alike) & (known > ON_ONE_SURFACE)
        count = np.count_nonzero(same)
        if count < _FEWEST * same.size:
            return None
        if self.rays is not None:
            onward, off = motion_seen(self.rays, self.rays.through(places) * np.exp(log_depth), same)
            if np.count_nonzero(same & (off < _FITS)) >= _TRUSTED * count:
                found = self._moved(self.rays, onward, log_depth)
                if found is not None:
                    return found
        # Distance, not depth, is what a camera that turns leaves as it is.
        longer = np.zeros_like(alike) if self.rays is None else self.rays.log_lengths
        (log_length, variance), _ = sampled(np.stack([whole.log_depth + longer, whole.variance]), places)
        return _found(FusedDepth(log_length - longer, variance, same), places, alike)

    def _moved(self, rays: Rays, onward: Motion, log_depth: Cells) -> Found | None:
        """Along a motion of the camera; `log_depth` is of cells that nothing was carried to."""
        seen = carried(rays, self.whole, onward)
        places = places_before(rays, np.where(seen.known, seen.log_depth, log_depth), onward.inverse())
        maps = np.array([self.old.grey[0], self.whole.log_depth, self.whole.known], dtype=np.float32)
        (grey, *earlier), inside = sampled(maps, places)
        seen = between_cells(rays, (earlier[0], earlier[1]), seen, places, onward)
        alike = self._alike(grey, inside)
        return _found(FusedDepth(seen.log_depth, seen.variance, seen.known & _same(alike)), places, alike)

    def _alike(self, old_grey: Cells, inside: Mask) -> Cells:
        """(h, w) agreement of what is shown with what was; NaN where that was not in view, or nothing is shown."""
        alike = agreement(self.new.pattern, Pattern.of(old_grey[None]))
        alike[~(inside & self.frame.shown)] = np.nan
        return alike


def _found(earlier: FusedDepth, places: Cells, alike: Cells) -> Found | None:
    """What was found at those places; None where it is too little, or what any two images have in common."""
    in_view = max(1, alike.size - np.count_nonzero(np.isnan(alike)))
    sure, known = np.count_nonzero(alike > _SURE), np.count_nonzero(earlier.known)
    if sure < _FEWEST_SURE * in_view or known < _FEWEST * alike.size:
        return None
    across, down = places - cell_centres((alike.shape[0], alike.shape[1]))
    still = (across * across + down * down <= _STILL**2) & (alike >= 1 - _LEAST_UNLIKE)
    return Found(earlier, all_nearby(still), float(np.count_nonzero(alike > _SAME) / in_view))


def _same(alike: Cells) -> Mask:
    """(h, w) bool, which cells show what they showed: the more alike most of them are, the more is asked of each."""
    unlike = 1 - alike
    usual = median(unlike[~np.isnan(unlike)])
    return unlike < min(max(_UNUSUAL * usual, _LEAST_UNLIKE), 1 - _SAME)
