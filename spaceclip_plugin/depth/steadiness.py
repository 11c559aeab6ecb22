"""What earlier frames did for a depth map, where a `SteadyDepth` has been at work."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Steadiness:
    """What earlier frames did for the depth of an image.

    Attributes:
        alone_m: (1, H, W) float32 metres, what this frame alone says; the map's uncertainty and validity aside.
        frames: that went into the depth since it began anew, this one included; 1: it is of this frame alone.
        reset: why it began anew with this frame; None where it went on.
        carried: share of the map that earlier frames had a say in, from 0 to 1.
        log_scale: logarithm of the factor that this frame's depth was multiplied by on the whole, to be of one scale
            with the others and with what the camera's motion tells of the scale.
        log_scale_sd: standard deviation of what is left unknown of the logarithm of the scale.
        doubt: why what was said of the camera's place was not believed in this frame; None where it was, or nothing was
            said.

    Example:
        >>> import torch
        >>> steady = Steadiness(torch.ones(1, 2, 2), 1, "the first frame", carried=0.0, log_scale=0.0, log_scale_sd=0.2)
        >>> steady.doubt is None
        True
    """

    alone_m: Tensor
    frames: int
    reset: str | None
    carried: float
    log_scale: float
    log_scale_sd: float
    doubt: str | None = None


def with_alone(steady: Sequence[Steadiness], change: Callable[[Tensor], Tensor]) -> tuple[Steadiness, ...]:
    """The same of every image where its map was changed, and so is what the frames alone say, (B, H, W) metres."""
    if not steady:
        return ()
    alone_m = change(torch.cat([one.alone_m for one in steady]))
    return tuple(replace(one, alone_m=alone_m[at : at + 1]) for at, one in enumerate(steady))
