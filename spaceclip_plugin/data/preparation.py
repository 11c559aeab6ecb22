"""Photos as a tower wants them: stretched to its input size, scaled and normalised."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from spaceclip_plugin.errors import DataError
from spaceclip_plugin.towers import TowerSpec

PREPARATION = "bicubic-squash-1"
"""Name of what `prepare` does to a photo; another name where it does something else: cached features depend on it."""


def prepare(images: Sequence[npt.NDArray[np.uint8]], spec: TowerSpec) -> Tensor:
    """Photos as the published recipe feeds a tower: stretched (bicubic), then normalised by its statistics.

    The aspect ratio is not kept: every pixel of the photo stays in view, and depth is resized back to the photo.

    Args:
        images: (H, W, 3) uint8 RGB each, of any sizes.
        spec: the tower's input size and statistics.

    Returns:
        (B, 3, h, w) float32 with h, w = `spec.image_hw`.

    Raises:
        DataError: no image, or one that is not (H, W, 3) uint8.

    Example:
        >>> import numpy as np, timm
        >>> from spaceclip_plugin.data import prepare
        >>> from spaceclip_plugin.towers import find_towers
        >>> host = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2).eval()
        >>> [tower] = find_towers(host)
        >>> prepare([np.zeros((48, 64, 3), np.uint8)], tower.spec).shape
        torch.Size([1, 3, 32, 32])
    """
    if not images:
        raise DataError("no image to prepare: the batch is empty")
    height, width = spec.image_hw
    stretched = []
    for image in images:
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
            raise DataError(f"an image must be (H, W, 3) uint8 RGB, got shape {image.shape} of {image.dtype}")
        photo = Image.fromarray(np.ascontiguousarray(image))
        stretched.append(np.asarray(photo.resize((width, height), Image.Resampling.BICUBIC)))
    return normalised(torch.from_numpy(np.stack(stretched)).permute(0, 3, 1, 2), spec)


def normalised(values: Tensor, spec: TowerSpec) -> Tensor:
    """(…, 3, h, w) uint8 as float32 of the tower's statistics."""
    mean, std = _statistics(spec, values)
    return (values.to(torch.float32) / 255 - mean) / std


def as_bytes(pixels: Tensor, spec: TowerSpec) -> Tensor:
    """What `normalised` made (…, 3, h, w) of, exactly; the nearest uint8 of pixels that it did not make."""
    mean, std = _statistics(spec, pixels)
    return ((pixels.to(torch.float32) * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)


def _statistics(spec: TowerSpec, like: Tensor) -> tuple[Tensor, Tensor]:
    mean, std = (torch.tensor(values, device=like.device) for values in (spec.image_mean, spec.image_std))
    return mean[:, None, None], std[:, None, None]
