"""What the depth map of one image exports as arrays, for viewers and message formats."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor
from typing_extensions import Self

from spaceclip_plugin.depth.camera import Intrinsics, IntrinsicsLike
from spaceclip_plugin.depth.depth_map import DepthMap
from spaceclip_plugin.depth.exports import check_single, to_numpy
from spaceclip_plugin.depth.photo import ImageLike, colours_at_pixels, is_of_camera, photo_pixels


@dataclass(frozen=True, eq=False)
class DepthArrays:
    """The depth map of one image on the CPU, with its camera and colours where they are known.

    Example:
        >>> import torch
        >>> from spaceclip_plugin.depth import DepthMap, Intrinsics
        >>> depth_m = torch.full((1, 2, 3), 2.0)
        >>> depth = DepthMap(depth_m, depth_m > 0, camera="wrist", frame=0, image_hw=(20, 30), trained=True)
        >>> arrays = DepthArrays.of(depth, Intrinsics(25.0, 25.0, 15.0, 10.0, (20, 30)))
        >>> arrays.camera, arrays.depth_m.shape, arrays.points_m.shape
        ('wrist', (2, 3), (6, 3))

    Attributes:
        camera: its name, "camera" where the host does not tell.
        depth_m: (H, W) float32 metres along the optical axis, 0 where not `valid`.
        valid: (H, W) bool.
        uncertainty_m: (H, W) float32 metres, 0 where not `valid`; None where the head gives none.
        alone_m: (H, W) float32 metres that this frame alone says, 0 where not `valid`; None where depth is not steady.
        intrinsics: in pixels of `depth_m`; None where none are known.
        points_m: (N, 3) float32 metres in the camera frame, of the N valid pixels, row by row; None without intrinsics.
        photo: (H', W', 3) uint8 RGB; None where none was given.
        photo_intrinsics: in pixels of `photo`, be it the camera's image or the tower's; None where one of the two is
            missing.
        point_colours: (N, 3) uint8 RGB of the points; None without a photo.
    """

    camera: str
    depth_m: npt.NDArray[np.float32]
    valid: npt.NDArray[np.bool_]
    uncertainty_m: npt.NDArray[np.float32] | None
    alone_m: npt.NDArray[np.float32] | None
    intrinsics: Intrinsics | None
    points_m: npt.NDArray[np.float32] | None
    photo: npt.NDArray[np.uint8] | None
    photo_intrinsics: Intrinsics | None
    point_colours: npt.NDArray[np.uint8] | None

    @classmethod
    def of(
        cls, depth_map: DepthMap, intrinsics: IntrinsicsLike | None = None, *, image: ImageLike | None = None
    ) -> Self:
        """The arrays of a depth map.

        Args:
            depth_map: of one image.
            intrinsics: as for `DepthMap.points`, and depth is in metres of that camera; None: the depth map's own.
            image: (H', W', 3) uint8 RGB of the same image, at any resolution. Where the depth map has a mapping it may
                be the camera's image or the tower's; its size says which.

        Raises:
            ConfigError: the map holds more than one image, the intrinsics are of another camera or no pinhole's, or
                `image` is not as above.
        """
        check_single(depth_map, "DepthArrays")
        valid = to_numpy(depth_map.valid[0])
        depth_hw = (valid.shape[0], valid.shape[1])
        photo = None if image is None else photo_pixels(image)
        if intrinsics is not None:
            depth_map = depth_map.with_intrinsics(intrinsics)
        seen = depth_map.intrinsics
        own = points_m = photo_intrinsics = None
        if seen is not None:
            own = seen.resized(depth_hw)
            points_m = to_numpy(depth_map.points()[0])[valid]
            if photo is not None:
                photo_hw, mapping = (photo.shape[0], photo.shape[1]), depth_map.mapping
                whole = mapping.to_camera(seen) if mapping and is_of_camera(photo_hw, mapping) else seen
                photo_intrinsics = whole.resized(photo_hw)
        return cls(
            camera="camera" if depth_map.camera is None else depth_map.camera,
            depth_m=_known(depth_map.depth_m, valid),
            valid=valid,
            uncertainty_m=None if depth_map.uncertainty_m is None else _known(depth_map.uncertainty_m, valid),
            alone_m=_known(depth_map.steady[0].alone_m, valid) if depth_map.steady else None,
            intrinsics=own,
            points_m=points_m,
            photo=photo,
            photo_intrinsics=photo_intrinsics,
            point_colours=None if photo is None else colours_at_pixels(photo, depth_hw, depth_map.mapping)[valid],
        )


def _known(values: Tensor, valid: npt.NDArray[np.bool_]) -> npt.NDArray[Any]:
    return np.where(valid, to_numpy(values[0]), np.float32(0))
