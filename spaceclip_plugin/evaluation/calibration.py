"""Whether predicted uncertainty can be believed: coverage is the share of the pixels that an interval of it holds.

Errors of ln depth are taken to follow a Laplace distribution whose standard deviation is the relative uncertainty.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from spaceclip_plugin.depth.depth_map import interval_factor
from spaceclip_plugin.errors import DataError

LEVELS = (0.5, 0.9)
PIXELS_PER_IMAGE = 4096
"""As many pixels of an image say how it is covered as well as all do: neighbours err alike."""

_FLOOR = 1e-7
_CANDIDATES = 1001

Residuals = npt.NDArray[np.float64]
"""(n,) errors of one image in predicted standard deviations: |ln d - ln t| / (u / d)."""


@dataclass(frozen=True)
class Calibration:
    """A factor on predicted uncertainty, and what share of the pixels its intervals hold (mean over images).

    `calibrate` gives one; a run writes its own into `run.json`, and a head that is trained is rescaled by it.

    Attributes:
        factor: what the uncertainty must be multiplied by.
        before: level → coverage without the factor.
        after: level → coverage with it, on the images it was fitted on.
        cross_checked: level → coverage on images it was not fitted on: fitted on the first half of the list and
            measured on the second, the other way round, and averaged. None with a single image. The head itself may
            have been chosen on all of them.
        images: how many images it was fitted on.

    Example:
        >>> import numpy as np
        >>> errors = np.random.default_rng(0).laplace(0, 2 / np.sqrt(2), 4000)  # twice what was predicted
        >>> calibration = calibrate([abs(errors[:2000]), abs(errors[2000:])])
        >>> round(calibration.factor, 1), round(calibration.before[0.9], 1), round(calibration.after[0.9], 1)
        (2.0, 0.7, 0.9)
    """

    factor: float
    before: dict[float, float]
    after: dict[float, float]
    cross_checked: dict[float, float] | None
    images: int


def normalised_residuals(
    depth_m: Tensor, uncertainty_m: Tensor, target_m: Tensor, *, valid: Tensor, max_pixels: int | None = None
) -> Residuals:
    """Errors of ln depth in predicted standard deviations, on the valid pixels of one image; all maps are (H, W).

    No more than `max_pixels` are taken, the same ones at every call.
    """
    maps = (depth_m, uncertainty_m, target_m)
    if valid.ndim != 2 or any(values.shape != valid.shape for values in maps) or not bool(valid.any()):
        shapes = ", ".join(str(tuple(values.shape)) for values in (*maps, valid))
        raise DataError(
            f"depth, uncertainty, target and valid must share one (H, W) shape and some pixel be valid, got {shapes} "
            f"with {int(valid.sum())} valid pixels; see Protocol.compared"
        )
    depth, uncertainty, target = (values[valid].double() for values in maps)
    if max_pixels is not None and len(depth) > max_pixels:
        drawn = torch.randperm(len(depth), generator=torch.Generator().manual_seed(0))[:max_pixels]
        depth, uncertainty, target = depth[drawn], uncertainty[drawn], target[drawn]
    depth = depth.clamp_min(_FLOOR)
    residuals: Residuals = ((depth.log() - target.log()).abs() / (uncertainty / depth).clamp_min(_FLOOR)).numpy()
    return residuals


def coverage(residuals: Residuals, level: float) -> float:
    """Share of an image's pixels whose true depth lies in the central interval of that level."""
    return float((residuals <= interval_factor(level)).mean())


def mean_coverage(images: Sequence[Residuals], level: float, *, factor: float = 1.0) -> float:
    """Mean over images of `coverage`, with the uncertainty multiplied by `factor`."""
    if not images:
        raise DataError("no image to measure the coverage of; give the residuals of at least one")
    return sum(coverage(residuals / factor, level) for residuals in images) / len(images)


def calibration_factor(images: Sequence[Residuals]) -> float:
    """The factor on the uncertainty at which the squared errors of `mean_coverage`, summed over `LEVELS`, are least.

    Each level alone has its best factor, a quantile of the residuals; the best for all lies between them.
    """
    if not images:
        raise DataError("no image to calibrate the uncertainty on; give the residuals of at least one")
    pooled = np.concatenate(images)
    order = np.argsort(pooled)
    pooled = pooled[order]
    covered = np.cumsum(np.concatenate([np.full(len(z), 1 / (len(z) * len(images))) for z in images])[order])
    # The last of the summed weights may round to less than a high level.
    quantiles = pooled[np.minimum(np.searchsorted(covered, LEVELS), len(pooled) - 1)].clip(_FLOOR)
    alone = quantiles / [interval_factor(level) for level in LEVELS]
    candidates = np.geomspace(alone.min(), alone.max(), _CANDIDATES)
    error = np.zeros(_CANDIDATES)
    for level in LEVELS:
        within = np.searchsorted(pooled, candidates * interval_factor(level), side="right")
        error += (np.append(0.0, covered)[within] - level) ** 2
    return float(candidates[np.argmin(error)])


def calibrate(images: Sequence[Residuals]) -> Calibration:
    """Fit the factor on all images, and say what it is worth.

    Args:
        images: (n,) errors of each image in predicted standard deviations, see `normalised_residuals`.

    Raises:
        DataError: no image.

    Example:
        >>> import numpy as np
        >>> calibrate([np.full(10, 0.49), np.full(10, 0.49)]).images
        2
    """
    factor = calibration_factor(images)
    middle = len(images) // 2
    halves = (images[:middle], images[middle:])  # neighbours in a list are often of one scene
    cross_checked: dict[float, float] | None = None
    if len(images) > 1:
        others = [calibration_factor(half) for half in halves[::-1]]
        cross_checked = {
            level: sum(mean_coverage(half, level, factor=f) for half, f in zip(halves, others, strict=True)) / 2
            for level in LEVELS
        }
    return Calibration(
        factor=factor,
        before={level: mean_coverage(images, level) for level in LEVELS},
        after={level: mean_coverage(images, level, factor=factor) for level in LEVELS},
        cross_checked=cross_checked,
        images=len(images),
    )
