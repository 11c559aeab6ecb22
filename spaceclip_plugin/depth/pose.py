"""Where a camera was: a rigid motion from its frame to the world's."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from spaceclip_plugin._checks import shown
from spaceclip_plugin.errors import ConfigError

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
    several = places if getattr(places, "ndim", 2) == 3 else [places]
    return torch.from_numpy(np.array([_checked(place) for place in several]))


def poses_of_images(places: Any, count: int) -> Tensor:
    """`checked_poses` of so many images, (count, 4, 4): one each, or one of all.

    Raises:
        ConfigError: see `checked_pose`; or they are neither one nor as many as images.
    """
    poses = checked_poses(places)
    if len(poses) not in (1, count):
        raise ConfigError(f"{len(poses)} places were told of {count} images; tell one of each, or one of all")
    return poses.expand(count, 4, 4)


def _checked(place: Any) -> npt.NDArray[np.float64]:
    """As `checked_pose`, in numpy: on so few numbers an operation of it takes a fraction of one of torch."""
    try:
        numbers = place.detach().to("cpu", torch.float64).numpy() if isinstance(place, Tensor) else place
        pose = np.array(numbers, dtype=np.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(f"a camera's place is a (4, 4) matrix of numbers, got {shown(place)}") from error
    if pose.shape != (4, 4):
        raise ConfigError(f"a camera's place is a (4, 4) matrix, camera to world, got shape {pose.shape}")
    if not np.isfinite(pose).all():
        raise ConfigError("a camera's place holds NaN or infinity; leave it out where it is not known")
    rotation, last = pose[:3, :3], pose[3]
    off = float(np.abs(rotation @ rotation.T - np.eye(3)).max())
    (a, b, c), (d, e, f), (g, h, i) = rotation.tolist()
    determinant = a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)
    if off > _RIGID or determinant < 0 or np.abs(last - (0.0, 0.0, 0.0, 1.0)).max() > _RIGID:
        raise ConfigError(
            "a camera's place is a rigid motion [R t; 0 0 0 1] with R a rotation; here R times its transpose is off "
            f"the identity by {off:.2g}, the determinant of R is {determinant:.3g} and the last row {last.tolist()}"
        )
    return pose
