"""Which part of a head's uncertainty is of the scale of the whole image, and which of each pixel."""

from __future__ import annotations

from torch import Tensor


def error_shares(variance: Tensor, *, strange_sd: float | Tensor, scene_sd: float) -> tuple[Tensor, Tensor]:
    """Variances in ln depth of the local error, and of the scale of the scene; what a strange image adds is in neither.

    A head's uncertainty holds both: what is the scale's is taken for half of the variance at most, after what a strange
    image adds to it, which is all the scale's, too.

    Args:
        variance: of the depth, in ln depth, as the head tells it: (uncertainty over depth) squared, of any shape.
        strange_sd: see `strangeness.strange_sd`, of the one image.
        scene_sd: standard deviation of the scale in one scene, in ln depth.
    """
    own = (variance - strange_sd**2).clamp_min(0.0)
    of_scale = (own / 2).clamp_max(scene_sd**2)
    return own - of_scale, of_scale
