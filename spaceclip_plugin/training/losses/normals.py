"""How surfaces lie: the angle between predicted and true normals, from depth alone."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from spaceclip_plugin.training.losses.terms import DEPTH_FLOOR_M, comparable


def normals_loss(prediction_m: Tensor, target_m: Tensor, *, valid: Tensor, stride: int = 4) -> Tensor:
    """Mean of 1 - cos of the angle between the normals of predicted and true surface; blind to the overall scale.

    The normal is that of the plane through a pixel and those `stride` to its right and below it, all three valid: less
    than a few pixels apart, measured depth is mostly steps of its encoding. The lens is taken to be one width and one
    height of the image long, with its axis in the middle. Through another one the world is stretched across the view:
    angles come out different, in prediction and truth alike, but planes stay planes.
    """
    prediction, target = comparable(prediction_m, target_m, valid)
    here, right, below = _corners(valid, stride)
    whole = here & right & below
    normals = [_normals(depth_m.masked_fill(~valid, 1), stride) for depth_m in (prediction, target)]
    # |a - b|² / 2 of unit vectors is 1 - cos, without the rounding of 1 - (nearly 1).
    apart = 0.5 * (normals[0] - normals[1]).square().sum(dim=0)
    return apart.masked_fill(~whole, 0).sum() / whole.sum().clamp_min(1)


def _corners(values: Tensor, stride: int) -> tuple[Tensor, Tensor, Tensor]:
    """Every pixel that has them, its neighbour on the right, and the one below: (B, H - stride, W - stride) each."""
    return values[:, :-stride, :-stride], values[:, :-stride, stride:], values[:, stride:, :-stride]


def _normals(depth_m: Tensor, stride: int) -> Tensor:
    """Unit normals (3, B, H - stride, W - stride) of a map (B, H, W), towards what lies behind the surface."""
    # On a plane n . (x, y, 1) Z = d the inverse depth n . (x, y, 1) / d is linear in the image: its slopes are n / d.
    # All of it is times the depth here, so that n . (x, y, 1) = 1 and no normal has length zero.
    here, right, below = _corners(depth_m.clamp_min(DEPTH_FLOOR_M), stride)
    height, width = depth_m.shape[1:]
    y, x = (torch.arange(side, dtype=here.dtype, device=here.device) + 0.5 for side in here.shape[1:])
    y, x = y[:, None] / height - 0.5, x / width - 0.5
    along_x, along_y = (here / right - 1) * (width / stride), (here / below - 1) * (height / stride)
    return functional.normalize(torch.stack([along_x, along_y, 1 - x * along_x - y * along_y]), dim=0)
