"""What an image of a strange kind is worth: how much wider depth may be off than the head says of itself."""

from __future__ import annotations

import math

import torch
from torch import Tensor

# Of an image of a strange kind a head knows no more than that things lie between 10 cm and 10 m.
_KNOWS_NOTHING = math.log(10.0 / 0.1) / math.sqrt(12)
_FULLY, _STRANGE = 0.25, 0.05  # familiarity from which on the head's own uncertainty holds, and up to which none of it


def strange_sd(familiarity: Tensor) -> Tensor:
    """(B,) standard deviation in log depth beyond the head's own, of images of that familiarity (`DepthMap`)."""
    return _KNOWS_NOTHING * ((_FULLY - familiarity) / (_FULLY - _STRANGE)).clamp(0, 1)


def widened(uncertainty_m: Tensor, depth_m: Tensor, familiarity: Tensor) -> Tensor:
    """The uncertainty (B, H, W) of depth, in metres, as it is where images are as familiar (B,) as said.

    It is the head's own down to a familiarity of a quarter, and below a twentieth that of one who knows only that
    things lie between 10 cm and 10 m.
    """
    return torch.hypot(uncertainty_m, strange_sd(familiarity).to(depth_m)[:, None, None] * depth_m)
