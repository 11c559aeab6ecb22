"""How a camera moved whose way nobody tells: the one motion that brings most surfaces to where they are found again."""

from __future__ import annotations

import torch
from torch import Tensor

from spaceclip_plugin.steady.matching import cell_centres
from spaceclip_plugin.steady.motion import Motion, Rays

_EVERY = 2  # cells from one that is asked to the next, along each axis
_ROUNDS = 5
_USUAL_FIT, _BEST_FIT = 1.5, 0.3  # times the median; cells, below which all fit alike
_NEAREST_M = 1e-3
_DAMPING = (1e-4, 1e-6)  # relative to each parameter's own curvature, and to all


def motion_seen(rays: Rays, points: Tensor, known: Tensor) -> tuple[Motion, Tensor]:
    """The motion that brings points of the earlier frame to the cells that show them now.

    The rounds of Gauss and Newton, reweighted: what moves on its own fits no motion of the camera and loses its say.
    Its length is in the unit of the points, so that it is right for carrying them, whatever their scale.

    Args:
        rays: of the present frame.
        points: (3, h, w) what each cell shows, in the earlier frame.
        known: (h, w) bool, where that is known.

    Returns:
        Out of the earlier frame into the present one, and (h, w) how many cells off it brings each point.
    """
    few = (slice(None), slice(None, None, _EVERY), slice(None, None, _EVERY))
    centres = cell_centres((points.shape[1], points.shape[2]), points)
    target, some, trust = (maps[few].flatten(1) for maps in (centres, points, known[None].to(points)))
    focal = some.new_tensor([[rays.camera.fx_px], [rays.camera.fy_px]])
    middle = some.new_tensor([[rays.camera.cx_px], [rays.camera.cy_px]])
    motion = Motion(torch.eye(3, device=some.device, dtype=some.dtype), some.new_zeros(3))
    all_alike = torch.eye(6, device=some.device, dtype=some.dtype) * _DAMPING[1]
    for _ in range(_ROUNDS):
        x, y, z = motion.rotation @ some + motion.translation_m[:, None]
        closer = 1 / z.clamp_min(_NEAREST_M)
        x, y = x * closer, y * closer
        off = torch.stack([x, y]) * focal + middle - target
        far = off.norm(dim=0)
        usual = (_USUAL_FIT * far[trust[0] > 0].median()).clamp_min(_BEST_FIT)
        weight = trust[0] / (1 + (far / usual).square()).square()
        nought = torch.zeros_like(x)
        across = torch.stack([closer, nought, -x * closer, -x * y, 1 + x * x, -y]) * focal[0]
        down = torch.stack([nought, closer, -y * closer, -1 - y * y, x * y, x]) * focal[1]
        slopes = torch.cat([across, down], dim=1)
        weighted = slopes * weight.repeat(2)
        curvature = weighted @ slopes.T
        curvature = curvature + _DAMPING[0] * curvature.diag().diag() + all_alike
        step = -torch.linalg.solve(curvature, weighted @ off.flatten())
        turn = torch.linalg.matrix_exp(_cross(step[3:]))
        motion = Motion(turn @ motion.rotation, turn @ motion.translation_m + step[:3])
    brought = rays.places(motion.rotation @ points.flatten(1) + motion.translation_m[:, None], _NEAREST_M)
    return motion, (brought.reshape(centres.shape) - centres).norm(dim=0)


def _cross(turn: Tensor) -> Tensor:
    """(3, 3) matrix of the cross product with a vector."""
    x, y, z = turn
    nought = torch.zeros_like(x)
    rows = [torch.stack(row) for row in ([nought, -z, y], [z, nought, -x], [-y, x, nought])]
    return torch.stack(rows)
