"""One scale for all photos of a clip, from what is known of their depth: a scale of every frame would flicker.

Teachers of inverse depth have a shift, too: 1 / metres = scale * given + shift.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from spaceclip_plugin.depth.alignment import SCALE_RANGE
from spaceclip_plugin.depth.robust_fit import Fit, fit_scale, fit_scale_and_shift
from spaceclip_plugin.errors import TeacherError

MEASURED, RANGES, OTHER_CLIPS, NONE = "measured depth", "ranges", "other clips", "nothing"
TOLERANCE = 0.25
_MAJORITY = 0.5
_FEWEST_FOR_SHIFT = 12
_MOST_POINTS = 200_000
_ANY_SCALE = (1e-6, 1e6)


@dataclass(frozen=True)
class ClipScale:
    """How the depth of one clip becomes metres.

    Attributes:
        clip: its name; empty for photos that are of none.
        images: how many it has.
        scale, shift: metres = scale * given; of inverse depth 1 / (scale * given + shift).
        based_on: "measured depth", "ranges", "other clips" (the median of theirs) or "nothing": as the teacher says.
        points: how many known pixels it was fitted to.
        agreeing: their share that is within a quarter of what was known.
        error: median distance of these from it, as a fraction.
    """

    clip: str
    images: int
    scale: float = 1.0
    shift: float = 0.0
    based_on: str = NONE
    points: int = 0
    agreeing: float = 0.0
    error: float = 0.0

    def metres(self, given: npt.NDArray[np.float32], *, metric: bool) -> npt.NDArray[np.float32]:
        """Metres of what the teacher gave; 0 where it does not know, or what it gave lies behind the camera."""
        if metric:
            scaled: npt.NDArray[np.float32] = given * np.float32(self.scale)
            return scaled
        inverse = given * np.float32(self.scale) + np.float32(self.shift)
        known = (given > 0) & (inverse > 0)
        metres: npt.NDArray[np.float32] = np.where(known, 1 / np.where(known, inverse, np.float32(1)), np.float32(0))
        return metres.astype(np.float32)


@dataclass(frozen=True, eq=False)
class Evidence:
    """What is known of one clip: what the teacher gave at some pixels, and the metres there."""

    clip: str
    images: int
    given: npt.NDArray[np.float32]
    known_m: npt.NDArray[np.float32]
    based_on: str


def fit_clip(evidence: Evidence, *, metric: bool) -> ClipScale:
    """The scale of one clip.

    Raises:
        TeacherError: what is known does not agree with what the teacher gave, at any scale that is believed; or
            inverse depth has too little to be anchored by.
    """
    what = f"clip {evidence.clip!r}" if evidence.clip else "the photos"
    usable = (evidence.given > 0) & (evidence.known_m > 0)
    step = -(-int(usable.sum()) // _MOST_POINTS) or 1
    given, known_m = (
        torch.from_numpy(values[usable][::step].astype(np.float64)) for values in (evidence.given, evidence.known_m)
    )
    if len(given) < (1 if metric else _FEWEST_FOR_SHIFT):
        if metric:
            return ClipScale(evidence.clip, evidence.images)
        raise TeacherError(
            f"{what}: the teacher gives inverse depth without metres, and {len(given)} pixels of known depth cannot "
            "anchor it; give data with measured depth, --ranges, or a metric teacher"
        )
    fit = _fit(given, known_m, metric=metric)
    low, high = SCALE_RANGE if metric else _ANY_SCALE
    if fit is None or fit.share <= _MAJORITY or not low <= fit.scale <= high:
        found = "" if fit is None else f" (scale {fit.scale:.3g}, {100 * fit.share:.0f} % agree)"
        raise TeacherError(
            f"{what}: no one scale brings the teacher's depth to what is known of {len(given)} pixels{found}; is the "
            "measured depth registered to the photos and in the right unit? --skip-bad leaves such clips out"
        )
    error = float(fit.relative_residuals().median())
    return ClipScale(
        evidence.clip, evidence.images, fit.scale, fit.shift_m, evidence.based_on, len(given), fit.share, error
    )


def with_median_scale(scales: Sequence[ClipScale]) -> list[ClipScale]:
    """Metric clips of which nothing is known take the median scale of the others: it is most likely one camera."""
    known = [math.log(one.scale) for one in scales if one.based_on != NONE]
    if not known:
        return list(scales)
    middle = math.exp(statistics.median(known))
    return [
        ClipScale(one.clip, one.images, middle, based_on=OTHER_CLIPS) if one.based_on == NONE else one for one in scales
    ]


def scale_from_mapping(values: Mapping[str, object]) -> ClipScale:
    """From JSON; ValueError or TypeError for anything else."""
    made = ClipScale(**values)  # type: ignore[arg-type]
    numbers = (made.scale, made.shift, made.agreeing, made.error)
    if not all(isinstance(value, int | float) and math.isfinite(value) for value in numbers) or made.scale <= 0:
        raise ValueError(f"no scale of a clip: {values}")
    return made


def _fit(given: torch.Tensor, known_m: torch.Tensor, *, metric: bool) -> Fit | None:
    if metric:
        return fit_scale(given, known_m, math.log1p(TOLERANCE))
    return fit_scale_and_shift(given, 1 / known_m, TOLERANCE, _ANY_SCALE)
