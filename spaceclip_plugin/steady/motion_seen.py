"""How a camera moved whose way nobody tells: the one motion that brings most surfaces to where they are found again."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from spaceclip_plugin.steady.grid import Cells, Mask, cell_centres, median
from spaceclip_plugin.steady.motion import Motion, Rays

_EVERY = 3  # cells from one that is asked to the next, along each axis
_ROUNDS = 4
_USUAL_FIT, _BEST_FIT = 1.5, 0.3  # times the median; cells, below which all fit alike
_NEAREST_M = 1e-3
_DAMPING = (1e-4, 1e-6)  # relative to each parameter's own curvature, and to all

_Array = npt.NDArray[np.float64]


def motion_seen(rays: Rays, points: Cells, known: Mask) -> tuple[Motion, Cells]:
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
    few = (..., slice(None, None, _EVERY), slice(None, None, _EVERY))
    centres = cell_centres((points.shape[1], points.shape[2]))
    asked = known[few]
    target, some = (maps[few][:, asked].astype(np.float64) for maps in (centres, points))
    turn, shift = np.eye(3), np.zeros(3)
    if asked.any():
        for _ in range(_ROUNDS):
            step = _step(rays, turn @ some + shift[:, None], target)
            turned = _rotation(step[3:])
            turn, shift = turned @ turn, turned @ shift + step[:3]
    motion = Motion.of(turn, shift)
    brought = motion.rotation @ points.reshape(3, -1) + motion.translation_m[:, None]
    off_x, off_y = rays.places(brought, _NEAREST_M).reshape(centres.shape) - centres
    return motion, np.sqrt(off_x * off_x + off_y * off_y)


def _step(rays: Rays, points: _Array, target: _Array) -> _Array:
    """(6,) how points (3, n) should shift and turn, to come nearer to the places (2, n) that they should be in."""
    camera = rays.camera
    closer = 1 / np.maximum(points[2], _NEAREST_M)
    x, y = points[:2] * closer
    off = np.stack([x * camera.fx_px + camera.cx_px, y * camera.fy_px + camera.cy_px]) - target
    far = np.sqrt((off * off).sum(axis=0))
    usual = max(_BEST_FIT, _USUAL_FIT * median(far))
    weight = 1 / (1 + (far / usual) ** 2) ** 2
    slopes = np.zeros((6, *off.shape))
    slopes[0, 0] = slopes[1, 1] = closer
    slopes[2] = -closer * (x, y)
    slopes[3, 1], slopes[4, 0] = -1 - y * y, 1 + x * x
    slopes[4, 1] = x * y
    slopes[3, 0] = -slopes[4, 1]
    slopes[5] = -y, x
    slopes *= np.array([[camera.fx_px], [camera.fy_px]])
    weighted, slopes = (slopes * weight).reshape(6, -1), slopes.reshape(6, -1)
    curvature = weighted @ slopes.T
    diagonal = curvature.reshape(-1)[::7]
    diagonal *= 1 + _DAMPING[0]
    diagonal += _DAMPING[1]
    step: _Array = -np.linalg.solve(curvature, weighted @ off.reshape(-1))
    return step


def _rotation(turn: _Array) -> _Array:
    """(3, 3), about an axis by its length in radians (Rodrigues)."""
    angle = math.hypot(*turn)
    x, y, z = turn / max(angle, 1e-12)
    across = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    rotation: _Array = np.eye(3) + math.sin(angle) * across + (1 - math.cos(angle)) * (across @ across)
    return rotation
