"""Which part of a head's uncertainty is of the scale of the whole image, and which of each pixel."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import numpy.typing as npt
from torch import Tensor

_Values = TypeVar("_Values", Tensor, npt.NDArray[np.float32])


def error_shares(variance: _Values, *, strange_sd: float, scene_sd: float) -> tuple[_Values, _Values]:
    """Variances in ln depth of the local error, and of the scale of the scene; what a strange image adds is in neither.

    A head's uncertainty holds both: what is the scale's is taken for half of the variance at most, after what a strange
    image adds to it, which is all the scale's, too.

    Args:
        variance: of the depth, in ln depth, as the head tells it: (uncertainty over depth) squared, of any shape; a
            tensor or an array.
        strange_sd: see `strangeness.strange_sd`, of the one image.
        scene_sd: standard deviation of the scale in one scene, in ln depth.
    """
    own = (variance - strange_sd**2).clip(min=0.0)
    of_scale = (own / 2).clip(max=scene_sd**2)
    return own - of_scale, of_scale
