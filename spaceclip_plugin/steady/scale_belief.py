"""What is believed of the factor that the depth of a camera is too large by, and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

STEPS = 49
_WIDEST = 2.4  # in ln scale: factors of an eleventh to eleven; a head of rooms may see a shelf four times too far
_WIDE = 1.0  # sd of ln scale, of one who knows next to nothing
_MEMORY = 0.95  # of evidence, for what comes after: elsewhere a head errs otherwise
_SYSTEMATIC = 0.1  # sd of ln scale that no amount of evidence takes away: depth is off in more than scale
_ALIKE = 0.1  # sd of ln scale between cameras of one rig

_Array = npt.NDArray[np.float64]
_ABOUT_ZERO: _Array = np.linspace(-_WIDEST, _WIDEST, STEPS)


class ScaleBelief:
    """What images have told of the factor that depth is too large by.

    Attributes:
        evidence: (S,) float64 ln likelihood of the factors of `log_scales`, up to a constant.
        offset: of the middle of those.
        pieces: how many pieces of evidence there were.
    """

    def __init__(self) -> None:
        self.evidence = np.zeros(STEPS)
        self.offset = 0.0
        self.pieces = 0

    @property
    def log_scales(self) -> _Array:
        """(S,) float64 logarithms of the factors that are asked about."""
        return _ABOUT_ZERO + self.offset

    def shift(self, log_factor: float) -> None:
        """Depth has been made larger by that factor: it is too large by that much more."""
        self.offset += log_factor
        if abs(self.offset) > _WIDEST / 3:
            self._recentre()

    def learn(self, log_likelihood: _Array) -> None:
        """Take what images say of `log_scales`, (S,) up to a constant."""
        self.evidence = self.evidence * _MEMORY + (log_likelihood - log_likelihood.max())
        self.pieces += 1

    def moments(self, prior_sd: float, others: Iterable[ScaleBelief] = ()) -> tuple[float, float]:
        """Mean and standard deviation of the log factor, if without evidence it were 0 give or take `prior_sd`.

        `others` are of other cameras of the rig, which err alike, give or take a tenth.
        """
        told = [self._told(0.0), *(other._told(_ALIKE) for other in others)]
        certainty = 1 / prior_sd**2 + sum(1 / variance for _, variance in told)
        return sum(mean / variance for mean, variance in told) / certainty, certainty**-0.5

    def _told(self, apart_sd: float) -> tuple[float, float]:
        """Mean and variance by the evidence alone, for a camera whose scale is that far from this one's.

        Those of a normal distribution, which with a wide one about 0 comes to what the evidence comes to with it.
        """
        if not self.pieces:
            return 0.0, math.inf
        grid = self.log_scales
        likelihood = self.evidence - grid * grid / (2 * _WIDE**2)
        density = np.exp(likelihood - likelihood.max())
        density /= density.sum()
        mean = float((density * grid).sum())
        off = grid - mean
        certainty = 1 / float((density * off * off).sum()) - 1 / _WIDE**2
        if certainty <= 0:
            return 0.0, math.inf
        mean *= 1 + 1 / (_WIDE**2 * certainty)
        return mean, 1 / certainty + _SYSTEMATIC**2 + apart_sd**2

    def _recentre(self) -> None:
        """About 0 again, so that it holds the factors that may be."""
        grid = self.log_scales
        self.offset = 0.0
        place = (self.log_scales - grid[0]) / (grid[1] - grid[0])
        below = np.floor(place).clip(0, STEPS - 2).astype(np.intp)
        part = (place - below).clip(0, 1)
        self.evidence = self.evidence[below] * (1 - part) + self.evidence[below + 1] * part
