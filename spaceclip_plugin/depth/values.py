"""Values of depth that mean something, looked at with one question to their device, and with none in a CUDA graph."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from spaceclip_plugin.errors import ConfigError


def is_captured(device: torch.device) -> bool:
    """Whether work for that device goes into a CUDA graph: no value may be asked for then, and none can be checked."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def extremes_of(maps: Sequence[Tensor]) -> Tensor:
    """The smallest and the largest value of each float map that is not empty, on the device, which is asked nothing."""
    found = [extreme for values in maps if len(values) for extreme in values.aminmax()]
    return torch.stack(found) if found else maps[0].new_empty(0)


def are_sane(extremes: Sequence[float]) -> bool:
    """Whether maps with these extremes are finite and nowhere negative: NaN, too, is the extreme of what holds any."""
    return all(0 <= extreme < math.inf for extreme in extremes)


def check_values(depth_m: Tensor, others: Sequence[Tensor], valid: Tensor) -> None:
    """Raise ConfigError where a value is NaN, infinite or negative; depth may be negative where it is not valid.

    Args:
        depth_m: (B, H, W).
        others: of its pixels, such as its uncertainty.
        valid: (B, H, W) bool.
    """
    if is_captured(depth_m.device):
        return
    if are_sane(extremes_of([depth_m, *others]).tolist()):
        return
    sane = torch.isfinite(depth_m) & ((depth_m >= 0) | ~valid)
    for values in others:
        sane &= torch.isfinite(values) & (values >= 0)
    if not sane.all():
        raise ConfigError(
            f"{int((~sane).sum())} of {sane.numel()} pixels are NaN or infinite, or negative where valid; "
            "mark pixels without depth in `valid` and give them depth 0"
        )
