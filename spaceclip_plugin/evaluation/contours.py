"""Where depth jumps: steps between neighbouring pixels, occluding contours, and how far a pixel is from them."""

from __future__ import annotations

import torch
from torch import Tensor

# The two pixels of every pair of neighbours: left and right, upper and lower.
_PAIRS = (
    ((slice(None), slice(None, -1)), (slice(None), slice(1, None))),
    ((slice(None, -1), slice(None)), (slice(1, None), slice(None))),
)


def steps(depth_m: Tensor, valid: Tensor) -> Tensor:
    """(P,) ratio of the farther to the nearer depth of all pairs of neighbours that are both valid.

    Of (H, W) positive depth, always in the same order. Positive where the right or lower pixel of a pair is the
    farther, negative where it is not: a ratio of depths knows no unit and no scale.
    """
    ratios = []
    for first, second in _PAIRS:
        both = valid[first] & valid[second]
        one, other = depth_m[first][both], depth_m[second][both]
        ratios.append(torch.where(other > one, other / one, -(one / other)))
    return torch.cat(ratios)


def contours(depth_m: Tensor, valid: Tensor, *, ratio: float) -> Tensor:
    """(H, W) bool: valid pixels with a valid neighbour, of four, that is more than `ratio` times as far.

    Only the nearer pixel of a pair is one: a contour belongs to what occludes, and is one pixel wide where depth jumps.
    """
    found = torch.zeros_like(valid)
    for first, second in _PAIRS:
        both = valid[first] & valid[second]
        for nearer, farther in ((first, second), (second, first)):
            found[nearer] |= both & (depth_m[farther] / depth_m[nearer] > ratio)
    return found


def distance_px(pixels: Tensor, *, limit_px: int) -> Tensor:
    """(H, W) Euclidean distance to the nearest pixel that is True; `limit_px` where none is nearer than that."""
    squared = torch.where(pixels, 0.0, float(limit_px**2))
    # The nearest in the column, then the nearest of these in the row: exact, as squared distances are sums.
    for dim in (0, 1):
        squared = _nearest_along(squared, dim, limit_px)
    return squared.sqrt()


def _nearest_along(squared: Tensor, dim: int, limit_px: int) -> Tensor:
    """The least of every value and, for each other one along `dim`, that and the square of how far away it is."""
    nearest = squared.clone()
    length = squared.shape[dim]
    for offset in range(1, min(limit_px, length)):
        for place, other in ((0, offset), (offset, 0)):
            here = nearest.narrow(dim, place, length - offset)
            here.copy_(torch.minimum(here, squared.narrow(dim, other, length - offset) + offset**2))
    return nearest
