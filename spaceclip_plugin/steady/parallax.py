"""Which scale of depth fits what a camera saw on its way: near things pass faster, by how far they are in metres."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from spaceclip_plugin.steady.following import OTHER_WAY, OTHERWISE, Told
from spaceclip_plugin.steady.grid import Cells, median, sampled, window_mean
from spaceclip_plugin.steady.motion import Motion, Rays, places_by_scale

_DETAIL = 5  # cells; what is smoother than that shows no parallax
_LEAST_DETAIL = 1e-6  # of normalised pixels
_EVERY = 3  # cells from one that is asked to the next, along each axis
_LEAST_IN_VIEW = 0.1  # of the cells that are asked, for a scale to be judged
_FAR_AWAY = -8.0  # ln scale at which nothing has parallax
_SHOWN = 0.88  # of the mismatch without parallax: what parallax must leave of it, to tell anything
_THIS_WAY = 0.97  # of the mismatch of the reverse motion, likewise
_WRONG = 1.1  # times the mismatch of the reverse motion, or of none, from which on the one that was told is wrong

_Array = npt.NDArray[np.float64]


def detail_of(grey: Cells) -> Cells:
    """(1, h, w) grey without its local mean."""
    return grey - window_mean(grey, _DETAIL)


@dataclass(frozen=True, eq=False)
class Parallax:
    """What two images tell of the scale of depth, if the camera moved as it was told.

    Attributes:
        mismatch: (S,) how ill they fit at each scale, from 0 to 1; None where they tell nothing of it.
        doubt: why the motion cannot be the one that was told; None where it can.
    """

    mismatch: _Array | None
    doubt: str | None = None

    @classmethod
    def seen(
        cls, details: tuple[Cells, Cells], rays: Rays, log_depth: Cells, back: Told, log_scales: _Array
    ) -> Parallax:
        """Compare two images.

        Args:
            details: (1, h, w) each, of the present and of the earlier image; see `detail_of`.
            rays: of both.
            log_depth: (h, w) of the present one.
            back: out of its frame into the earlier one.
            log_scales: (S,) logarithms of the factors that depth may be too large by.
        """
        asked = np.append(log_scales, _FAR_AWAY).astype(np.float32)
        *of_scales, far = _mismatch(details, rays, log_depth, back.onward, asked).tolist()
        least = min(of_scales)
        reverse = float(_mismatch(details, rays, log_depth, back.reverse, asked[:-1]).min())
        if least > _WRONG * reverse:
            return cls(None, OTHER_WAY)
        if least > _WRONG * far:
            return cls(None, OTHERWISE)
        inside = least < min(of_scales[0], of_scales[-1])
        tells = inside and far < 1 and least < _SHOWN * far and least < _THIS_WAY * reverse
        return cls(np.array(of_scales) if tells else None)


def _mismatch(details: tuple[Cells, Cells], rays: Rays, log_depth: Cells, back: Motion, log_scales: Cells) -> Cells:
    """(S,) how ill images fit if depth is each of those factors too large: from 0 to 1.

    If depth is right, what a cell shows is found in the earlier image where the motion brings it.
    """
    new_detail, old_detail = details
    [old], inside = sampled(old_detail, places_by_scale(rays, log_depth, back, log_scales, every=_EVERY))
    off = np.abs(old - new_detail[0, ::_EVERY, ::_EVERY])
    off /= max(median(np.abs(new_detail)), _LEAST_DETAIL) + off  # what is far off, is not further off
    off *= inside
    count = inside.sum(axis=(1, 2))
    mean = off.sum(axis=(1, 2)) / np.maximum(count, 1)
    return np.where(count >= _LEAST_IN_VIEW * inside[0].size, mean, 1.0).astype(np.float32)
