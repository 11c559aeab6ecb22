"""From what a teacher said to metres: a scale of each clip, what is left out, and how far it is from the truth."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from spaceclip_plugin.errors import TeacherError
from spaceclip_plugin.teaching.evidence import Points, Ranges, range_points
from spaceclip_plugin.teaching.keeping import Keeping
from spaceclip_plugin.teaching.record import Check
from spaceclip_plugin.teaching.scale import MEASURED, RANGES, ClipScale, Evidence, fit_clip, with_median_scale
from spaceclip_plugin.teaching.shards import TaughtPhoto

_SAMPLED = 1024
"""Kept pixels of a photo that tell whether its depth lies in the range."""
_MOST_OUTSIDE = 0.5

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Finishing:
    """How what a teacher said becomes metres."""

    metric: bool
    range_of_teacher_m: tuple[float, float] | None
    keeping: Keeping
    mask: npt.NDArray[np.bool_] | None
    ranges: Ranges
    skip_bad: bool  # clips and photos that cannot be used are left out instead of ending all


@dataclass(frozen=True)
class Outcome:
    """What came of it."""

    clips: list[ClipScale]
    left_out: list[int]
    check: Check | None


@dataclass(eq=False)
class _Clip:
    """What is gathered of a clip: by photo, some kept pixels, and what is known."""

    numbers: list[int] = field(default_factory=list)
    sampled: list[npt.NDArray[np.float32]] = field(default_factory=list)
    given: list[npt.NDArray[np.float32]] = field(default_factory=list)
    known_m: list[npt.NDArray[np.float32]] = field(default_factory=list)
    measured: int = 0  # photos with measured depth
    ranged: int = 0  # photos with ranges

    def evidence(self, name: str) -> Evidence:
        """All that is known."""
        given, known_m = (
            np.concatenate(parts) if parts else np.zeros(0, np.float32) for parts in (self.given, self.known_m)
        )
        return Evidence(name, len(self.numbers), given, known_m, MEASURED if self.measured else RANGES)


def finish(photos: Iterable[TaughtPhoto], how: Finishing, *, progress: Callable[[int], object]) -> Outcome:
    """Scales, what is left out, and the check.

    Raises:
        TeacherError: a clip without a scale, or whose depth is mostly out of range (without `skip_bad`); or nothing is
            left.
        DataError: a range beyond its photo, or a mask of other photos.
    """
    clips: dict[str, _Clip] = defaultdict(_Clip)
    left_out: list[int] = []
    for number, photo in enumerate(photos):
        if photo.depth.size:
            _gather(clips[photo.clip], number, photo, how)
        else:
            left_out.append(number)
        progress(1)
    scales, without = _fitted(clips, how)
    for one in scales:
        held = clips[one.clip]
        refusal = _outside(one, held, how)
        if refusal is not None:
            without[one.clip] = refusal
        inside = [bool(how.keeping.within(one.metres(part, metric=how.metric)).any()) for part in held.sampled]
        left_out += [number for number, usable in zip(held.numbers, inside, strict=True) if not usable]
    for name, refusal in without.items():
        if not how.skip_bad:
            raise TeacherError(refusal)
        _logger.warning("%s: left out", refusal)
        left_out += clips[name].numbers
    kept = [one for one in scales if one.clip not in without]
    total = len(left_out) + sum(len(clip.numbers) for clip in clips.values())
    if not kept or len(set(left_out)) >= total:
        raise TeacherError(f"of {total} photos none is left with depth to learn from; look at the mask and the range")
    return Outcome(kept, sorted(set(left_out)), _check(kept, clips, how))


def _gather(clip: _Clip, number: int, photo: TaughtPhoto, how: Finishing) -> None:
    kept = how.keeping.pixels(photo, how.mask)
    values = photo.depth[kept]
    step = -(-len(values) // _SAMPLED) or 1
    clip.numbers.append(number)
    clip.sampled.append(values[step // 2 :: step])
    ranges: Points | None = None
    if number in how.ranges:
        ranges = range_points(how.ranges[number], (kept.shape[0], kept.shape[1]), photo.name)
    for places, metres in ((photo.known_at, photo.known_m), *([] if ranges is None else [ranges])):
        trusted = kept.reshape(-1)[places]
        clip.given.append(photo.depth.reshape(-1)[places][trusted])
        clip.known_m.append(metres[trusted])
    clip.measured += bool(len(photo.known_at))
    clip.ranged += ranges is not None


def _fitted(clips: Mapping[str, _Clip], how: Finishing) -> tuple[list[ClipScale], dict[str, str]]:
    """The scale of each clip that has one, and why others have none."""
    scales: list[ClipScale] = []
    without: dict[str, str] = {}
    for name, clip in clips.items():
        try:
            scales.append(fit_clip(clip.evidence(name), metric=how.metric))
        except TeacherError as error:
            without[name] = str(error)
    return (with_median_scale(scales) if how.metric else scales), without


def _outside(one: ClipScale, clip: _Clip, how: Finishing) -> str | None:
    """Why a clip's depth cannot be what it is said to be."""
    values = np.concatenate([*clip.sampled, np.zeros(0, np.float32)])
    what = f"clip {one.clip!r}" if one.clip else "the photos"
    if not len(values):
        return f"{what}: no pixel of the teacher's depth is kept; look at the mask"
    metres = one.metres(values, metric=how.metric)
    share = 1 - float(how.keeping.within(metres).mean())
    if share <= _MOST_OUTSIDE:
        return None
    low_m, high_m = how.keeping.range_m
    of_teacher = (
        "" if how.range_of_teacher_m is None else f"; the teacher was made for up to {how.range_of_teacher_m[1]:g} m"
    )
    return (
        f"{what}: {100 * share:.0f} % of the depth lies out of {low_m:g} to {high_m:g} m, its median is "
        f"{float(np.median(metres)):.3g} m{of_teacher}. Is it a teacher for such scenes (indoor, outdoor)? "
        "Another range is --depth-range MIN,MAX"
    )


def _check(scales: Iterable[ClipScale], clips: Mapping[str, _Clip], how: Finishing) -> Check | None:
    scaled, as_given, known = [], [], []
    images = 0
    for one in scales:
        clip = clips[one.clip]
        evidence = clip.evidence(one.clip)
        metres = one.metres(evidence.given, metric=how.metric)
        used = how.keeping.within(metres)
        scaled.append(metres[used].astype(np.float64))
        as_given.append(evidence.given[used].astype(np.float64))
        known.append(evidence.known_m[used].astype(np.float64))
        images += clip.measured
    depth_m, raw, true = (np.concatenate(parts) for parts in (scaled, as_given, known))
    if not images or not len(true):
        return None
    ratio = np.maximum(depth_m / true, true / depth_m)
    return Check(
        images,
        len(true),
        abs_rel=float((np.abs(depth_m - true) / true).mean()),
        delta1=float((ratio < 1.25).mean()),
        abs_rel_as_given=float((np.abs(raw - true) / true).mean()) if how.metric else None,
    )


def check_can_be_anchored(has_evidence: bool, *, name: str) -> None:
    """Refuse a teacher of inverse depth where nothing could give it metres, before it is asked anything."""
    if not has_evidence:
        raise TeacherError(
            f"{name} gives inverse depth of unknown scale and shift, no metres, and there is neither measured depth "
            "nor --ranges to anchor it; take a metric teacher (Depth Anything V2 metric, Depth Pro, ZoeDepth, GLPN)"
        )
