"""Where a camera was: a rigid motion from its frame to the world's."""

from __future__ import annotations

from typing import Any

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
    try:
        pose = torch.as_tensor(place, dtype=torch.float64).detach().cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(f"a camera's place is a (4, 4) matrix of numbers, got {shown(place)}") from error
    if tuple(pose.shape) != (4, 4):
        raise ConfigError(f"a camera's place is a (4, 4) matrix, camera to world, got shape {tuple(pose.shape)}")
    if not bool(pose.isfinite().all()):
        raise ConfigError("a camera's place holds NaN or infinity; leave it out where it is not known")
    rotation, last = pose[:3, :3], pose[3]
    off = float((rotation @ rotation.T - torch.eye(3, dtype=torch.float64)).abs().max())
    determinant = float(torch.linalg.det(rotation))
    if off > _RIGID or determinant < 0 or not torch.allclose(last, last.new_tensor([0.0, 0.0, 0.0, 1.0]), atol=_RIGID):
        raise ConfigError(
            "a camera's place is a rigid motion [R t; 0 0 0 1] with R a rotation; here R times its transpose is off "
            f"the identity by {off:.2g}, the determinant of R is {determinant:.3g} and the last row {last.tolist()}"
        )
    return pose


def checked_poses(places: Any, count: int | None = None) -> list[Tensor]:
    """Poses of images, each as `checked_pose` gives it: of one matrix (4, 4) for all, or of (B, 4, 4).

    Args:
        places: one or several matrices, or a list of those that this gave.
        count: how many images there are; None: not known yet.

    Raises:
        ConfigError: see `checked_pose`; or as many as there are no images.
    """
    if (isinstance(places, list) and all(isinstance(one, Tensor) for one in places)) or getattr(places, "ndim", 2) == 3:
        poses = [checked_pose(one) for one in places]
    else:
        poses = [checked_pose(places)]
    if count is None or len(poses) == count:
        return poses
    if len(poses) != 1:
        raise ConfigError(f"{len(poses)} places were told of {count} images; tell one of each, or one of all")
    return poses * count
