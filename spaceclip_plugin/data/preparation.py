"""Photos as a tower wants them: squashed to its input size, scaled and normalised."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from spaceclip_plugin.errors import DataError
from spaceclip_plugin.towers.spec import TowerSpec

PREPARATION = "bicubic-squash-1"
"""Name of what `prepare` does to a photo; another name where it does something else: cached features depend on it."""


def prepare(images: Sequence[npt.NDArray[np.uint8]], spec: TowerSpec) -> Tensor:
    """A batch of photos as the published recipe feeds a tower: bicubic squash, then the tower's mean and deviation.

    The aspect ratio is not kept: every pixel of the photo stays in view, and depth is resized back to the photo.

    Args:
        images: (H, W, 3) uint8 RGB each, of any sizes.
        spec: the tower's input size and statistics.

    Returns:
        (B, 3, h, w) float32 with h, w = `spec.image_hw`.

    Raises:
        DataError: no image, or one that is not (H, W, 3) uint8.
    """
    from PIL import Image

    if not images:
        raise DataError("no image to prepare: the batch is empty")
    height, width = spec.image_hw
    squashed = []
    for image in images:
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
            raise DataError(f"an image must be (H, W, 3) uint8 RGB, got shape {image.shape} of {image.dtype}")
        photo = Image.fromarray(np.ascontiguousarray(image))
        squashed.append(np.asarray(photo.resize((width, height), Image.Resampling.BICUBIC)))
    pixels = torch.from_numpy(np.stack(squashed)).permute(0, 3, 1, 2).to(torch.float32) / 255
    mean, std = torch.tensor(spec.image_mean), torch.tensor(spec.image_std)
    return (pixels - mean[:, None, None]) / std[:, None, None]
