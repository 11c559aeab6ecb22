"""Between which metres the true depth lies, from its standard deviation."""

from __future__ import annotations

import math

from torch import Tensor

from spaceclip_plugin.errors import ConfigError

_MIN_DEPTH_M = 1e-6
_MAX_SPREAD = 30.0  # in ln depth: beyond any world, and finite


def interval_of(depth_m: Tensor, uncertainty_m: Tensor, level: float) -> tuple[Tensor, Tensor]:
    """Nearest and farthest metres of a central interval: the logarithm of depth errs as a Laplace distribution."""
    relative = uncertainty_m / depth_m.clamp_min(_MIN_DEPTH_M)
    spread = (interval_factor(level) * relative).clamp_max(_MAX_SPREAD)
    return depth_m * (-spread).exp(), depth_m * spread.exp()


def interval_factor(level: float) -> float:
    """Half the width, in standard deviations, of a Laplace distribution's central interval of that probability."""
    if not 0 < level < 1:
        raise ConfigError(f"the level of an interval is a probability between 0 and 1, got {level!r}")
    return -math.log1p(-level) / math.sqrt(2)
