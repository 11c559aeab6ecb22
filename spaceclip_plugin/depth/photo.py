"""The colours of a photo at the pixels of a depth map. Its size tells the camera's image from the tower's.

Where a host crops or pads, the two show different things: the wrong one would colour every point with something else.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from torch import Tensor

from spaceclip_plugin.depth.camera import same_aspect
from spaceclip_plugin.depth.image_mapping import ImageMapping
from spaceclip_plugin.errors import ConfigError

ImageLike = Tensor | npt.NDArray[np.uint8]
"""(H', W', 3) uint8 RGB at any resolution: the image that the tower saw or, where there is a mapping, the camera's."""


def photo_pixels(image: ImageLike) -> npt.NDArray[np.uint8]:
    """The photo as an array on the CPU, checked."""
    pixels = image.detach().cpu().numpy() if isinstance(image, Tensor) else np.asarray(image)
    if pixels.ndim != 3 or pixels.shape[-1] != 3 or pixels.dtype != np.uint8 or pixels.size == 0:
        raise ConfigError(f"image must be (H, W, 3) uint8 RGB, got {pixels.dtype} of shape {pixels.shape}")
    return pixels


def is_of_camera(photo_hw: tuple[int, int], mapping: ImageMapping | None) -> bool:
    """Whether a photo of that size is the camera's image, and not the tower's.

    In doubt it is the camera's: intrinsics beside a mapping are, too.
    """
    if mapping is None:
        return False
    camera_hw, tower_hw = mapping.camera_hw, mapping.tower_hw
    if photo_hw in (camera_hw, tower_hw):
        return photo_hw == camera_hw
    if not same_aspect(photo_hw, camera_hw) and not same_aspect(photo_hw, tower_hw):
        raise ConfigError(
            f"a photo of {photo_hw[0]}x{photo_hw[1]} pixels (HxW) is not the camera's image of "
            f"{camera_hw[0]}x{camera_hw[1]}, nor the tower's of {tower_hw[0]}x{tower_hw[1]}, at any resolution; give "
            "the whole image of one of them"
        )
    return same_aspect(photo_hw, camera_hw)


def colours_at_pixels(
    image: ImageLike, depth_hw: tuple[int, int], mapping: ImageMapping | None = None
) -> npt.NDArray[np.uint8]:
    """(H, W, 3) colours of a photo at the pixel centres of a depth map of size `depth_hw`, with its mapping."""
    pixels = photo_pixels(image)
    photo_hw = (pixels.shape[0], pixels.shape[1])
    lines = []
    for axis in (0, 1):
        centres = np.arange(depth_hw[axis]) + 0.5
        if mapping is not None and is_of_camera(photo_hw, mapping):
            scale, offset = ((mapping.scale_y, mapping.offset_y), (mapping.scale_x, mapping.offset_x))[axis]
            camera_px = (centres * mapping.tower_hw[axis] / depth_hw[axis] - offset) / scale
            place = camera_px * photo_hw[axis] / mapping.camera_hw[axis]
        else:
            place = centres * photo_hw[axis] / depth_hw[axis]
        # In the padding there is no photo, and no valid depth either.
        lines.append(np.clip(np.floor(place), 0, photo_hw[axis] - 1).astype(np.intp))
    sampled: npt.NDArray[np.uint8] = pixels[lines[0][:, None], lines[1]]
    return sampled
