"""Where a camera was: a rigid motion from its frame to the world's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from spaceclip_plugin._checks import shown
from spaceclip_plugin.errors import ConfigError

Matrix: TypeAlias = npt.NDArray[np.float64]

_RIGID = 1e-3  # that rotation @ its transpose may be off the identity


def checked_pose(place: Any) -> Tensor:
    """A pose as (4, 4) float64 on the CPU, camera to world: [rotation, place of the camera in metres; 0 0 0 1].

    Raises:
        ConfigError: not such a matrix: another shape, NaN or infinity, no rotation, a mirror, another last row.
    """
    return torch.from_numpy(_checked(place))


def checked_poses(places: Any) -> Tensor:
    """Poses of the images of one call, (B, 4, 4) float64 on the CPU, each as `checked_pose` gives it; (4, 4) is one.

    Raises:
        ConfigError: see `checked_pose`.
    """
    return torch.from_numpy(np.array(_all_checked(places)))


def poses_of_images(places: Any, count: int) -> Tensor:
    """`checked_poses` of so many images, (count, 4, 4): one each, or one of all.

    Raises:
        ConfigError: see `checked_pose`; or they are neither one nor as many as images.
    """
    return torch.from_numpy(np.array(matrices_of_images(places, count)).reshape(count, 4, 4))


def matrices_of_images(places: Any, count: int) -> list[Matrix]:
    """The same as a list of arrays."""
    poses = _all_checked(places)
    if len(poses) not in (1, count):
        raise ConfigError(f"{len(poses)} places were told of {count} images; tell one of each, or one of all")
    return poses if len(poses) == count else poses * count


def _all_checked(places: Any) -> list[Matrix]:
    return [_checked(place) for place in (places if getattr(places, "ndim", 2) == 3 else [places])]


def _checked(place: Any) -> Matrix:
    """As `checked_pose`. Python's own numbers: of so few, those of numpy and torch take several times as long."""
    try:
        numbers = place.detach().to("cpu", torch.float64).numpy() if isinstance(place, Tensor) else place
        pose = np.array(numbers, dtype=np.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(f"a camera's place is a (4, 4) matrix of numbers, got {shown(place)}") from error
    if pose.shape != (4, 4):
        raise ConfigError(f"a camera's place is a (4, 4) matrix, camera to world, got shape {pose.shape}")
    rows = pose.tolist()
    if not all(math.isfinite(value) for row in rows for value in row):
        raise ConfigError("a camera's place holds NaN or infinity; leave it out where it is not known")
    x, y, z = rotation = [row[:3] for row in rows[:3]]
    off = max(abs(_dot(one, other) - (one is other)) for one in rotation for other in rotation)
    determinant = _dot(x, (y[1] * z[2] - y[2] * z[1], y[2] * z[0] - y[0] * z[2], y[0] * z[1] - y[1] * z[0]))
    off_last = max(abs(value - wanted) for value, wanted in zip(rows[3], (0.0, 0.0, 0.0, 1.0), strict=True))
    if off > _RIGID or determinant < 0 or off_last > _RIGID:
        raise ConfigError(
            "a camera's place is a rigid motion [R t; 0 0 0 1] with R a rotation; here R times its transpose is off "
            f"the identity by {off:.2g}, the determinant of R is {determinant:.3g} and the last row {rows[3]}"
        )
    return pose


def _dot(one: Sequence[float], other: Sequence[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))
