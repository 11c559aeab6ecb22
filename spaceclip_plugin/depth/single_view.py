"""One image's depth as arrays, with its camera and colours: what viewers and message formats are made from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from spaceclip_plugin.depth.camera import Intrinsics
from spaceclip_plugin.depth.depth_map import DepthMap, IntrinsicsLike, to_numpy
from spaceclip_plugin.depth.photo_colours import ImageLike, colours_at_pixels, is_of_camera, photo_pixels
from spaceclip_plugin.errors import ConfigError

__all__ = ["UNNAMED", "ImageLike", "SingleView", "single_view"]

UNNAMED = "camera"
"""What a view is called where the host does not tell."""


@dataclass(frozen=True, eq=False)
class SingleView:
    """A depth map of one image, on the CPU.

    Attributes:
        name: of the camera, "camera" where the host does not tell.
        depth_m: (H, W) float32 metres along the optical axis, 0 where not `valid`.
        valid: (H, W) bool.
        uncertainty_m: (H, W) float32 metres, 0 where not `valid`; None where the head gives none.
        camera: intrinsics in pixels of `depth_m`; None where none were given.
        points_m: (N, 3) float32 metres in the camera frame, of the N valid pixels, row by row; None without a camera.
        photo: (H', W', 3) uint8 RGB; None where none was given.
        photo_camera: intrinsics in pixels of `photo`, be it the camera's image or the tower's; None where one of the
            two is missing.
        point_colours: (N, 3) uint8 RGB of the points; None without a photo.
    """

    name: str
    depth_m: npt.NDArray[np.float32]
    valid: npt.NDArray[np.bool_]
    uncertainty_m: npt.NDArray[np.float32] | None
    camera: Intrinsics | None
    points_m: npt.NDArray[np.float32] | None
    photo: npt.NDArray[np.uint8] | None
    photo_camera: Intrinsics | None
    point_colours: npt.NDArray[np.uint8] | None


def single_view(
    depth_map: DepthMap, intrinsics: IntrinsicsLike | None = None, *, image: ImageLike | None = None
) -> SingleView:
    """What a depth map of one image shows.

    Args:
        depth_map: of one image.
        intrinsics: as for `DepthMap.points`; None where they are not known.
        image: (H', W', 3) uint8 RGB of the same view, at any resolution. Where the depth map has a mapping it may be
            the camera's image or the tower's; its size says which.

    Raises:
        ConfigError: the map holds more than one image, the intrinsics are of another camera or no pinhole's, or `image`
            is not as above.
    """
    if len(depth_map) != 1:
        raise ConfigError(f"expected the depth of one image, this depth map holds {len(depth_map)}; pick one: depth[i]")
    valid = to_numpy(depth_map.valid[0])
    depth_hw = (valid.shape[0], valid.shape[1])
    photo = None if image is None else photo_pixels(image)
    camera = points_m = photo_camera = None
    if intrinsics is not None:
        seen = depth_map.camera_of(intrinsics)
        camera = seen.resized(depth_hw)
        points_m = to_numpy(depth_map.points(intrinsics)[0])[valid]
        if photo is not None:
            photo_hw, mapping = (photo.shape[0], photo.shape[1]), depth_map.mapping
            whole = seen if mapping is None or not is_of_camera(photo_hw, mapping) else mapping.to_camera(seen)
            photo_camera = whole.resized(photo_hw)
    return SingleView(
        name=UNNAMED if depth_map.view is None else depth_map.view,
        depth_m=_known(depth_map.depth_m, valid),
        valid=valid,
        uncertainty_m=None if depth_map.uncertainty_m is None else _known(depth_map.uncertainty_m, valid),
        camera=camera,
        points_m=points_m,
        photo=photo,
        photo_camera=photo_camera,
        point_colours=None if photo is None else colours_at_pixels(photo, depth_hw, depth_map.mapping)[valid],
    )


def _known(values: Tensor, valid: npt.NDArray[np.bool_]) -> npt.NDArray[Any]:
    return np.where(valid, to_numpy(values[0]), np.float32(0))
