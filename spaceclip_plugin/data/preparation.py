"""Photos as a tower wants them: laid in an image of its size, scaled and normalised."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from spaceclip_plugin.depth import ImageMapping
from spaceclip_plugin.errors import DataError
from spaceclip_plugin.towers import ImageGeometry, TowerSpec


class ImagePreparation(Protocol):
    """How photos become images of a tower: what training, evaluation and prediction show it.

    `DepthAttachment.preparation` is that of a host: a policy's own function, what a folder's image processor says, or
    what a user says (`ImageGeometry`). Photos of one size always lie alike in the tower's image.

    Example:
        >>> import timm
        >>> from spaceclip_plugin.attach import ImagePreparation, attach_depth_head
        >>> host = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2).eval()
        >>> with attach_depth_head(host) as attachment:
        ...     preparation: ImagePreparation = attachment.preparation
        >>> preparation.kind, preparation.mapping((48, 64)).scale_x
        ('stretch', 0.5)
    """

    @property
    def name(self) -> str:
        """All that decides the pixels beside the tower's spec; cached features and records of runs hold it."""

    @property
    def kind(self) -> str:
        """Where a photo lies in the tower's image: "stretch", "letterbox:centre", "centre-crop:256".

        In words of `ImageGeometry.parse` where these can say it, whatever interpolates and fills; a head's config
        keeps it.
        """

    @property
    def image_hw(self) -> tuple[int, int]:
        """(H, W) pixels of what it makes."""

    @property
    def portable(self) -> bool:
        """Whether processes that read data ahead may call it; the mapping they may have in any case."""

    def mapping(self, camera_hw: tuple[int, int]) -> ImageMapping:
        """Where the pixels of photos of that size, (H, W), lie in the tower's image; ConfigError where none can."""

    def __call__(self, images: Sequence[npt.NDArray[np.uint8]]) -> Tensor:
        """(B, 3, h, w) float32 of `image_hw`, normalised, of photos (H, W, 3) uint8 RGB of any sizes.

        Raises:
            DataError: no image, or one that is not such a photo.
            HostError: the host's own function fails, or is not what it was known as.
        """


@dataclass(frozen=True)
class DeclaredPreparation:
    """Photos laid in a tower's image as is said in so many words, and normalised by the tower's statistics."""

    geometry: ImageGeometry
    spec: TowerSpec

    portable = True

    @property
    def name(self) -> str:
        """Of the geometry: the tower's spec says the rest."""
        return self.geometry.name

    @property
    def kind(self) -> str:
        """Of the geometry."""
        return self.geometry.kind

    @property
    def image_hw(self) -> tuple[int, int]:
        """The tower's."""
        return self.spec.image_hw

    def mapping(self, camera_hw: tuple[int, int]) -> ImageMapping:
        """Where the pixels of photos of that size lie in the tower's image."""
        return self.geometry.mapping(camera_hw, self.spec.image_hw)

    def __call__(self, images: Sequence[npt.NDArray[np.uint8]]) -> Tensor:
        """(B, 3, h, w) float32 of photos; see `ImagePreparation`."""
        check_photos(images)
        laid = np.stack([self.geometry.image(image, self.spec.image_hw) for image in images])
        return normalised(torch.from_numpy(laid).permute(0, 3, 1, 2), self.spec)


def prepare(images: Sequence[npt.NDArray[np.uint8]], spec: TowerSpec) -> Tensor:
    """Photos as the published recipe feeds a tower: stretched (bicubic), then normalised by its statistics.

    The aspect ratio is not kept: every pixel of the photo stays in view, and depth is resized back to the photo. What
    a host does to its camera's images may be something else: `DepthAttachment.preparation` tells.

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
    return DeclaredPreparation(ImageGeometry.STRETCH, spec)(images)


def check_photos(images: Sequence[npt.NDArray[np.uint8]]) -> None:
    """DataError for no image, or one that is not (H, W, 3) uint8."""
    if not images:
        raise DataError("no image to prepare: the batch is empty")
    for image in images:
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
            raise DataError(f"an image must be (H, W, 3) uint8 RGB, got shape {image.shape} of {image.dtype}")


def normalised(values: Tensor, spec: TowerSpec) -> Tensor:
    """(…, 3, h, w) uint8 as float32 of the tower's statistics."""
    mean, std = _statistics(spec, values)
    return values.to(torch.float32, copy=True).div_(255).sub_(mean).div_(std)


def as_bytes(pixels: Tensor, spec: TowerSpec) -> Tensor:
    """What `normalised` made (…, 3, h, w) of, exactly; the nearest uint8 of pixels that it did not make."""
    mean, std = _statistics(spec, pixels)
    return ((pixels.to(torch.float32) * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)


def _statistics(spec: TowerSpec, like: Tensor) -> tuple[Tensor, Tensor]:
    mean, std = (torch.tensor(values, device=like.device) for values in (spec.image_mean, spec.image_std))
    return mean[:, None, None], std[:, None, None]
