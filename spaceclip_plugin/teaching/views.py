"""What a teacher says of one photo, looked at twice: as it is and mirrored. Where both differ it is not to be believed.

A second teacher, whose scale may be another, doubts by what it says otherwise once both have the same median.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from spaceclip_plugin.data import DepthSample
from spaceclip_plugin.depth import Intrinsics
from spaceclip_plugin.errors import TeacherError
from spaceclip_plugin.teaching.teacher import DepthTeacher

_MOST_DOUBT = 6.0e4  # below what float16 holds
_LEAST = 1e-6


@dataclass(frozen=True, eq=False)
class Lesson:
    """What was said of a photo.

    Attributes:
        depth: (H, W) float32 as the teacher gives it, the mean of both views; 0 where it does not know.
        doubt: (H, W) float16 (11 bits: it only ranks pixels), how far the views are apart: of metres the difference of
            logarithms, of inverse depth that over the mean. The most of it where nothing is known.
    """

    depth: npt.NDArray[np.float32]
    doubt: npt.NDArray[np.float16]


def look(teacher: DepthTeacher, sample: DepthSample, *, second: DepthTeacher | None = None) -> Lesson:
    """What a teacher says of a sample's photo.

    Raises:
        TeacherError: it gives anything but depth; names the teacher and the sample.
    """
    depth, doubt = _both_views(teacher, sample)
    if second is not None:
        other, others_doubt = _both_views(second, sample)
        doubt = np.maximum(np.maximum(doubt, others_doubt), _apart(depth, other))
    known = depth > 0
    doubt = np.where(known, np.minimum(doubt, _MOST_DOUBT), _MOST_DOUBT)
    return Lesson(np.ascontiguousarray(depth, np.float32), doubt.astype(np.float16))


def photo_intrinsics(sample: DepthSample) -> Intrinsics | None:
    """A sample's camera, in pixels of its photo."""
    height, width = sample.image.shape[:2]
    return None if sample.intrinsics is None else sample.intrinsics.resized((height, width))


def _both_views(teacher: DepthTeacher, sample: DepthSample) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float64]]:
    camera, width = photo_intrinsics(sample), sample.image.shape[1]
    mirrored = None if camera is None else dataclasses.replace(camera, cx_px=width - camera.cx_px)
    photos = np.stack([sample.image, sample.image[:, ::-1]])
    one, other = _checked(teacher, teacher.depth(photos, [camera, mirrored]), photos.shape[:3], sample.name)
    other = other[:, ::-1]
    known = (one > 0) & (other > 0)
    first, second = (np.where(known, view, 1.0).astype(np.float64) for view in (one, other))
    if teacher.card.metric:
        depth, doubt = np.sqrt(first * second), np.abs(np.log(first / second))
    else:  # 0 is a distance here, the furthest
        depth = 0.5 * (one.astype(np.float64) + other)
        doubt = np.abs(one - other) / np.maximum(depth, _LEAST)
        known = depth > 0
    return np.where(known, depth, 0.0).astype(np.float32), np.where(known, doubt, np.inf)


def _apart(depth: npt.NDArray[np.float32], other: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Difference of logarithms from the median one."""
    known = (depth > 0) & (other > 0)
    if not known.any():
        return np.full(depth.shape, np.inf)
    apart = np.log(np.where(known, depth, 1.0).astype(np.float64) / np.where(known, other, 1.0))
    return np.where(known, np.abs(apart - np.median(apart[known])), np.inf)


def _checked(teacher: DepthTeacher, given: object, shape: tuple[int, ...], name: str) -> npt.NDArray[np.float32]:
    """The depth of both views, 0 where infinite."""
    if not isinstance(given, np.ndarray) or given.shape != shape or given.dtype != np.float32:
        kind = f"{given.dtype} of shape {given.shape}" if isinstance(given, np.ndarray) else type(given).__name__
        raise TeacherError(f"{teacher.card.name} gave {kind} for {name}, expected float32 of shape {shape}")
    if np.isnan(given).any() or (given < 0).any():
        raise TeacherError(
            f"{teacher.card.name} gave depth for {name} that is NaN or negative; its weights are damaged, or it needs "
            "another precision"
        )
    return np.where(np.isfinite(given), given, np.float32(0))
