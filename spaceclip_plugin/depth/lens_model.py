"""What OpenCV's lens models do to rays, and back, up to where a model folds over. Pixels in the corner convention."""

from __future__ import annotations

import importlib
import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from spaceclip_plugin._checks import choice, number, shown
from spaceclip_plugin.depth.camera import Intrinsics
from spaceclip_plugin.errors import ConfigError

BROWN_CONRADY, FISHEYE = "brown-conrady", "fisheye"
_COUNTS = {BROWN_CONRADY: (4, 5, 8, 12, 14), FISHEYE: (4,)}
_NAMES = {BROWN_CONRADY: "k1 k2 p1 p2 k3 k4 k5 k6 s1 s2 s3 s4 tx ty", FISHEYE: "k1 k2 k3 k4"}
NO_FOLD_DEG = 89.9  # as far as is looked: to nearly all that is in front of a camera
_STEPS_DEG, _AZIMUTHS = np.linspace(0.0, NO_FOLD_DEG, 900), 32
_NEWTON_STEPS, _HIT_PX, _NUDGE = 25, 1e-4, 1e-6
_RAYS_AT_ONCE = 1 << 16  # OpenCV makes 24 derivatives of each

Array: TypeAlias = npt.NDArray[np.float64]
Map: TypeAlias = npt.NDArray[np.float32]


def checked_coefficients(model: str, coefficients: object) -> tuple[float, ...]:
    """Finite coefficients, as many as the model takes; ConfigError otherwise."""
    counts = _COUNTS[choice("model of the distortion", model, _COUNTS)]
    try:
        given = [number(value) for value in np.asarray(coefficients, dtype=object).reshape(-1)]
    except ValueError:
        given = []
    if len(given) not in counts or not all(math.isfinite(value) for value in given):
        allowed = f"{', '.join(map(str, counts[:-1]))} or {counts[-1]}" if len(counts) > 1 else str(counts[0])
        raise ConfigError(
            f"{model} distortion takes {allowed} finite coefficients, the first of {_NAMES[model]}; got {len(given)}: "
            f"{shown(coefficients)}"
        )
    return tuple(given)


@dataclass(frozen=True)
class LensModel:
    """A camera's focal lengths and principal point, with a distortion of `checked_coefficients`."""

    camera: Intrinsics
    model: str
    coefficients: tuple[float, ...]

    @property
    def opencv(self) -> Any:
        """The module cv2, or ConfigError saying which extra brings it."""
        try:
            return importlib.import_module("cv2")
        except ImportError as error:
            raise ConfigError(
                f"{self.model} distortion with the coefficients {self.coefficients} is undone by OpenCV, and cv2 "
                f"cannot be imported ({error}); pip install 'spaceclip-plugin[camera]', or undistort the photos first "
                "and give their pinhole intrinsics"
            ) from error

    @cached_property
    def fold_deg(self) -> float:
        """Angle from the optical axis, up to which what is further out lies further from the middle of the image."""
        around = 2 * math.pi * np.arange(_AZIMUTHS) / _AZIMUTHS
        directions = np.stack([np.cos(around), np.sin(around)], axis=-1)
        rays = np.tan(np.radians(_STEPS_DEG))[:, None, None] * directions
        with np.errstate(all="ignore"):
            places = self.project(rays.reshape(-1, 2)).reshape(rays.shape)
            grows = (np.diff(np.hypot(*np.moveaxis(places - places[:1], -1, 0)), axis=0) > 0).all(axis=1)
        return float(_STEPS_DEG[-1] if grows.all() else _STEPS_DEG[grows.argmin()])

    def holds_for(self, rays: Array) -> npt.NDArray[np.bool_]:
        """(…) bool, whether rays (…, 2), x/z and y/z, come before the fold."""
        before: npt.NDArray[np.bool_] = np.hypot(rays[..., 0], rays[..., 1]) <= math.tan(math.radians(self.fold_deg))
        return before

    def project(self, rays: Array) -> Array:
        """(N, 2) pixels of rays (N, 2): x/z and y/z."""
        cv2, zero = self.opencv, np.zeros(3)
        project = cv2.fisheye.projectPoints if self.model == FISHEYE else cv2.projectPoints
        pixels = np.empty_like(rays)
        for first in range(0, len(rays), _RAYS_AT_ONCE):
            some = rays[first : first + _RAYS_AT_ONCE]
            points = np.concatenate([some, np.ones((len(some), 1))], axis=1)[:, None]
            pixels[first : first + len(some)] = project(points, zero, zero, *self._of_opencv)[0].reshape(-1, 2)
        return pixels + 0.5

    def rays(self, pixels: Array) -> Array:
        """(N, 2) rays of pixels (N, 2) by Newton's method, NaN where none before the fold goes there."""
        camera, furthest = self.camera, math.tan(math.radians(self.fold_deg))
        rays = (pixels - [camera.cx_px, camera.cy_px]) / [camera.fx_px, camera.fy_px]
        missing = np.arange(len(pixels))
        with np.errstate(all="ignore"):
            for _ in range(_NEWTON_STEPS):
                some = rays[missing] * np.minimum(1, furthest / np.hypot(*rays[missing].T))[:, None]
                at = self.project(some)
                by_x = (self.project(some + _NUDGE * np.array([1.0, 0.0])) - at) / _NUDGE
                by_y = (self.project(some + _NUDGE * np.array([0.0, 1.0])) - at) / _NUDGE
                miss = pixels[missing] - at
                step = np.stack([_cross(miss, by_y), _cross(by_x, miss)], axis=1) / _cross(by_x, by_y)[:, None]
                rays[missing] = some + step
                missing = missing[~(np.abs(miss).max(axis=1) <= _HIT_PX)]
                if not len(missing):
                    break
        rays[missing] = np.nan
        return rays

    def maps(self, pinhole: Intrinsics) -> tuple[Map, Map]:
        """(H, W) columns and rows of what the pinhole camera's pixels show, as OpenCV counts pixels."""
        cv2 = self.opencv
        make = cv2.fisheye.initUndistortRectifyMap if self.model == FISHEYE else cv2.initUndistortRectifyMap
        columns, rows = make(*self._of_opencv, np.eye(3), _opencv_matrix(pinhole), pinhole.image_hw[::-1], cv2.CV_32FC1)
        return columns, rows

    @property
    def _of_opencv(self) -> tuple[Array, Array]:
        return _opencv_matrix(self.camera), np.array(self.coefficients)


def _cross(one: Array, other: Array) -> Array:
    return one[:, 0] * other[:, 1] - one[:, 1] * other[:, 0]


def _opencv_matrix(camera: Intrinsics) -> Array:
    """K with the first pixel's centre at (0, 0)."""
    return np.array([[camera.fx_px, 0, camera.cx_px - 0.5], [0, camera.fy_px, camera.cy_px - 0.5], [0, 0, 1]])
