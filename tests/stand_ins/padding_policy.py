"""A policy that pads its camera's images as SmolVLA does, by a method of its own, around a small CLIP tower."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from clip_world import clip_host
from torch import Tensor, nn
from torch.nn import functional

KEY = "observation.images.top"


class SmolVLAPolicy(nn.Module):
    """One camera; its tower takes 32x32 images in [-1, 1]."""

    image_mean = image_std = (0.5, 0.5, 0.5)

    def __init__(self, camera_hw: tuple[int, int]) -> None:
        super().__init__()
        self.eye = clip_host()
        features = {KEY: SimpleNamespace(shape=(3, *camera_hw))}
        self.config = SimpleNamespace(image_features=features, resize_imgs_with_padding=[32, 32], empty_cameras=0)

    def prepare_images(self, batch: dict[str, Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Fitted into 32x32, black on the left and on the top."""
        image = batch[KEY]
        ratio = max(image.shape[2] / 32, image.shape[3] / 32)
        hw = (int(image.shape[2] / ratio), int(image.shape[3] / ratio))
        fitted = functional.interpolate(image, hw, mode="bilinear", align_corners=False)
        padded = functional.pad(fitted, (32 - hw[1], 0, 32 - hw[0], 0))
        return [padded * 2 - 1], [torch.ones(len(image), dtype=torch.bool)]

    @torch.no_grad()
    def select_action(self, batch: dict[str, Tensor]) -> Tensor:
        """Looks at its camera, as it does at every step."""
        images, _ = self.prepare_images(batch)
        return self.eye(images[0]).pooler_output
