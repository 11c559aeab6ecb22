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

from spaceclip_plugin.depth.interval import interval_factor
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


def mean_coverage(
    images: Sequence[Residuals], level: float, *, factor: float = 1.0, widening: Sequence[Residuals] | None = None
) -> float:
    """Mean over images of `coverage`, with the uncertainty multiplied by `factor`, then widened; see `calibrate`."""
    if not images:
        raise DataError("no image to measure the coverage of; give the residuals of at least one")
    if widening is None:
        return sum(coverage(residuals / factor, level) for residuals in images) / len(images)
    pairs = zip(images, widening, strict=True)
    return sum(coverage(residuals / np.hypot(factor, wider), level) for residuals, wider in pairs) / len(images)


def calibration_factor(images: Sequence[Residuals], *, widening: Sequence[Residuals] | None = None) -> float:
    """The factor on the uncertainty at which the squared errors of `mean_coverage`, summed over `LEVELS`, are least.

    Each level alone has its best factor, a quantile of the residuals; the best for all lies between them. With
    `widening` it is no less than half of what it is without: images that are covered because they are strange to the
    head must not make it sure of those it knows.
    """
    if not images:
        raise DataError("no image to calibrate the uncertainty on; give the residuals of at least one")
    least = _FLOOR if widening is None else 0.5 * calibration_factor(images)
    factors = [interval_factor(level) for level in LEVELS]
    # With a factor of f an interval of half width q holds what is at most q hypot(f, v): what is left at most q f.
    left = [images if widening is None else _narrowed(images, widening, factor) for factor in factors]
    pooled = [_pooled(residuals) for residuals in left]
    alone = [
        max(float(values[min(int(np.searchsorted(covered, level)), len(values) - 1)]), _FLOOR) / factor
        for level, factor, (values, covered) in zip(LEVELS, factors, pooled, strict=True)
    ]
    candidates = np.geomspace(max(min(alone), least), max(*alone, least), _CANDIDATES)
    error = np.zeros(_CANDIDATES)
    for level, factor, (values, covered) in zip(LEVELS, factors, pooled, strict=True):
        within = np.searchsorted(values, candidates * factor, side="right")
        error += (np.append(0.0, covered)[within] - level) ** 2
    return float(candidates[np.argmin(error)])


def _narrowed(images: Sequence[Residuals], widening: Sequence[Residuals], factor: float) -> list[Residuals]:
    """What is left of residuals for an interval of that half width once the widening has taken its part."""
    pairs = zip(images, widening, strict=True)
    return [np.sqrt((residuals**2 - (factor * wider) ** 2).clip(0)) for residuals, wider in pairs]


def _pooled(images: Sequence[Residuals]) -> tuple[Residuals, Residuals]:
    """Residuals of all images, ascending, and the share that is at most as large; each image weighs alike."""
    pooled = np.concatenate(images)
    order = np.argsort(pooled)
    shares = np.concatenate([np.full(len(z), 1 / (len(z) * len(images))) for z in images])
    # The last of the summed weights may round to less than a high level.
    return pooled[order], np.cumsum(shares[order])


def calibrate(images: Sequence[Residuals], *, widening: Sequence[Residuals] | None = None) -> Calibration:
    """Fit the factor on all images, and say what it is worth.

    Args:
        images: (n,) errors of each image in predicted standard deviations, see `normalised_residuals`.
        widening: (n,) of each image, what is added in quadrature to the uncertainty where it is used, whatever the
            factor, in predicted standard deviations; None: nothing.

    Raises:
        DataError: no image.

    Example:
        >>> import numpy as np
        >>> calibrate([np.full(10, 0.49), np.full(10, 0.49)]).images
        2
    """
    factor = calibration_factor(images, widening=widening)
    middle = len(images) // 2
    cross_checked: dict[float, float] | None = None
    if len(images) > 1:  # neighbours in a list are often of one scene
        wider_halves = (None, None) if widening is None else (widening[:middle], widening[middle:])
        parts = list(zip((images[:middle], images[middle:]), wider_halves, strict=True))
        others = [calibration_factor(half, widening=wider) for half, wider in parts[::-1]]
        cross_checked = {
            level: sum(
                mean_coverage(half, level, factor=f, widening=wider)
                for (half, wider), f in zip(parts, others, strict=True)
            )
            / 2
            for level in LEVELS
        }
    return Calibration(
        factor=factor,
        before={level: mean_coverage(images, level, widening=widening) for level in LEVELS},
        after={level: mean_coverage(images, level, factor=factor, widening=widening) for level in LEVELS},
        cross_checked=cross_checked,
        images=len(images),
    )
