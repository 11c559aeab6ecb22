"""Robust, deterministic fits of known depth to predicted depth: a scale, or a scale and a shift."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_ROUNDS = 20
_MAX_SCORED = 1000
_MAX_PAIRED = 60
_MIN_RATIO = 1.2


@dataclass(frozen=True, eq=False)
class Fit:
    """Known depth as `scale * predicted + shift_m`, of (N,) points of which those in `inliers` (bool) agree."""

    predicted_m: Tensor
    known_m: Tensor
    scale: float
    shift_m: float
    inliers: Tensor

    @property
    def share(self) -> float:
        """Of all points, how many agree."""
        return float(self.inliers.double().mean())

    @property
    def agreeing(self) -> tuple[Tensor, Tensor]:
        """Predicted and known depth of the inliers, (n,) each."""
        return self.predicted_m[self.inliers], self.known_m[self.inliers]

    def relative_residuals(self) -> Tensor:
        """(n,) distance of the inliers from their known depth as a fraction of it."""
        predicted_m, known_m = self.agreeing
        return (self.scale * predicted_m + self.shift_m - known_m).abs() / known_m

    def shift_error_m(self) -> float:
        """Standard error of the shift, metres, by weighted least squares: errors are in proportion to the depth."""
        predicted, known = self.agreeing
        weights = known.square().reciprocal()
        mean = (weights * predicted).sum() / weights.sum()
        variance = 1 / weights.sum() + mean.square() / (weights * (predicted - mean).square()).sum()
        deviation = 1.4826 * self.relative_residuals().median()  # if the errors are of a normal distribution
        return float(deviation * variance.sqrt())


def largest_cluster(values: Tensor, half_width: float) -> Tensor:
    """(N,) bool: members of the largest group of N numbers, at least one, within `half_width` of their median.

    Outliers do not move it, on one side or on both, while they are not themselves a larger group.
    """
    ordered = values.sort().values
    ends = torch.searchsorted(ordered, ordered + 2 * half_width, right=True)
    counts = ends - torch.arange(len(ordered), device=ends.device)
    fullest = (counts == counts.max()).nonzero()[:, 0]
    widths = ordered[ends[fullest] - 1] - ordered[fullest]
    start = int(fullest[widths.argmin()])
    members = torch.zeros_like(values, dtype=torch.bool)
    centre = ordered[start : int(ends[start])].median()
    for _ in range(_ROUNDS):
        found = (values - centre).abs() <= half_width
        if torch.equal(found, members):
            break
        members, centre = found, values[found].median()
    return members


def fit_scale(predicted_m: Tensor, known_m: Tensor, half_width: float) -> Fit:
    """The median ratio of the largest group of ratios whose logarithms agree within `half_width`."""
    log_ratios = (known_m / predicted_m).log()
    inliers = largest_cluster(log_ratios, half_width)
    chosen = log_ratios[inliers]
    middle = torch.quantile(chosen, 0.5) if len(chosen) < _MAX_SCORED else chosen.median()
    return Fit(predicted_m, known_m, float(middle.exp()), 0.0, inliers)


def fit_scale_and_shift(
    predicted_m: Tensor, known_m: Tensor, tolerance: float, scale_range: tuple[float, float]
) -> Fit | None:
    """Scale and shift of least truncated squared relative error, or None where no pair of points gives any.

    Of the lines through pairs of points, the best is fitted to its inliers by reweighted least squares.
    """

    def fit_of(scale: float, shift_m: float) -> Fit:
        off = (scale * predicted_m + shift_m - known_m).abs()
        return Fit(predicted_m, known_m, scale, shift_m, off <= tolerance * known_m)

    order = predicted_m.argsort()
    few, scored = (
        order[torch.linspace(0, len(order) - 1, min(len(order), most), dtype=torch.float64).round().long()]
        for most in (_MAX_PAIRED, _MAX_SCORED)
    )
    first, second = torch.combinations(few).unbind(-1) if len(few) > 1 else (few[:0], few[:0])
    apart = predicted_m[second] >= _MIN_RATIO * predicted_m[first]
    first, second = first[apart], second[apart]
    scales = (known_m[second] - known_m[first]) / (predicted_m[second] - predicted_m[first])
    sane = (scales >= scale_range[0]) & (scales <= scale_range[1])
    scales, shifts = scales[sane], (known_m[first] - scales * predicted_m[first])[sane]
    if not len(scales):
        return None
    lines = scales[:, None] * predicted_m[scored] + shifts[:, None]
    cost = ((lines - known_m[scored]) / (tolerance * known_m[scored])).square().clamp_max(1.0).sum(dim=1)
    best = int(cost.argmin())
    fit = fit_of(float(scales[best]), float(shifts[best]))
    for _ in range(_ROUNDS):
        if int(fit.inliers.sum()) < 2:
            return None
        fit = fit_of(*_reweighted(fit))
    return fit


def _reweighted(fit: Fit) -> tuple[float, float]:
    """Scale and shift by least squares, with Huber's weights of the fit's residuals."""
    (predicted_m, known_m), residuals = fit.agreeing, fit.relative_residuals()
    corner = (2.0 * residuals.median()).clamp_min(1e-9)
    weights = (corner / residuals.clamp_min(1e-12)).clamp_max(1.0) / known_m.square()
    mean_predicted, mean_known = ((weights * values).sum() / weights.sum() for values in (predicted_m, known_m))
    off = predicted_m - mean_predicted
    scale = (weights * off * (known_m - mean_known)).sum() / (weights * off.square()).sum()
    return float(scale), float(mean_known - scale * mean_predicted)
