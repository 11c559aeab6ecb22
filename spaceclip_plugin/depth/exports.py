"""The ways out of a `DepthMap`: pictures, files, and what other libraries take."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from spaceclip_plugin.depth.camera import IntrinsicsLike
from spaceclip_plugin.depth.colours import colorize_depth
from spaceclip_plugin.depth.image_mapping import ImageMapping
from spaceclip_plugin.depth.photo import colours_at_pixels
from spaceclip_plugin.depth.writing import write_ply, write_png
from spaceclip_plugin.errors import ConfigError

if TYPE_CHECKING:
    from transformers.modeling_outputs import DepthEstimatorOutput


class DepthExports:
    """What a depth map can be turned into; `DepthMap` has the fields."""

    if TYPE_CHECKING:
        depth_m: Tensor
        valid: Tensor
        trained: bool
        mapping: ImageMapping | None

        def points(self, intrinsics: IntrinsicsLike | None = None) -> Tensor: ...  # noqa: D102

    def to_transformers(self) -> DepthEstimatorOutput:
        """The depth as transformers' depth models return it: `predicted_depth` is `depth_m`, sharing memory.

        There is no mask in that class: pixels that are not `valid` keep the finite number `depth_m` holds there, which
        means nothing (0 in padding and in what the tower never read).
        """
        from transformers.modeling_outputs import DepthEstimatorOutput

        return DepthEstimatorOutput(predicted_depth=self.depth_m)

    def colorize(self, *, depth_range_m: tuple[float, float] | None = None) -> npt.NDArray[np.uint8]:
        """Depth as colour: near warm, far cool, invalid dark grey.

        Args:
            depth_range_m: (near, far) at the ends of the colour map; None: what shows the whole batch well. Give it
                where pictures are to be compared.

        Returns:
            (B, H, W, 3) uint8 RGB.

        Raises:
            ConfigError: the range is not finite with 0 <= near < far.
        """
        return colorize_depth(to_numpy(self.depth_m), to_numpy(self.valid), depth_range_m=depth_range_m)

    def save_png16(self, path: str | os.PathLike[str], *, replace: bool = True) -> None:
        """Write a 16-bit PNG of whole millimetres, 0 where invalid (the encoding of NYU, LeRobot and ROS 16UC1).

        The encoding ends at 65.535 m: what lies beyond is written as 0, invalid; so is depth under half a millimetre.
        The file says that its rows are upright as they are (EXIF orientation 1).

        Args:
            path, replace: as for `write_png`.

        Raises:
            ConfigError: the map holds more than one image, or see `write_png`.
            OSError: the disk refuses the write.
        """
        check_single(self, "save_png16")
        millimetres = np.rint(to_numpy(self.depth_m[0]).astype(np.float64) * 1000)
        known = to_numpy(self.valid[0]) & (millimetres <= np.iinfo(np.uint16).max)
        write_png(path, np.where(known, millimetres, 0).astype(np.uint16), replace=replace)

    def save_ply(
        self,
        path: str | os.PathLike[str],
        intrinsics: IntrinsicsLike | None = None,
        *,
        image: Tensor | npt.NDArray[np.uint8] | None = None,
        replace: bool = True,
    ) -> None:
        """Write the valid points as a binary little-endian PLY: x y z in metres, and red green blue with an image.

        Args:
            path, replace: as for `write_png`.
            intrinsics: as for `points`.
            image: (H', W', 3) uint8 RGB of the same image, at any resolution; the pixel at each point's centre is
                taken. With a `mapping` it may be the camera's image or the tower's; its size says which.

        Raises:
            ConfigError: the map holds more than one image, an argument is not as above, or without `replace` something
                is at `path`.
            OSError: the disk refuses the write.
        """
        check_single(self, "save_ply")
        valid = to_numpy(self.valid[0])
        points = to_numpy(self.points(intrinsics)[0])[valid]
        hw = (valid.shape[0], valid.shape[1])
        colours = None if image is None else colours_at_pixels(image, hw, self.mapping)[valid]
        write_ply(path, points, colours, trained=self.trained, replace=replace)


def check_single(depth_map: DepthExports, what: str) -> None:
    """Raise ConfigError for a batch where `what` takes the depth of one image."""
    if len(depth_map.depth_m) != 1:
        raise ConfigError(f"{what} takes one image, this depth map holds {len(depth_map.depth_m)}; pick one: depth[i]")


def to_numpy(values: Tensor) -> npt.NDArray[Any]:
    """The values on the CPU."""
    return values.detach().cpu().numpy()
