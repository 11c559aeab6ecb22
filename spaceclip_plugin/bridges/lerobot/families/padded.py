"""SmolVLA, π0 and its family, X-VLA: a method of the policy that letterboxes the images of a batch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from spaceclip_plugin.bridges.lerobot.families.family import Family, Fit, Laying, pair, setting
from spaceclip_plugin.depth.image_mapping import Anchor
from spaceclip_plugin.errors import HostError
from spaceclip_plugin.towers import ImageStatistics


@dataclass(frozen=True)
class Padded(Family):
    """Attributes see `Family`.

    Attributes:
        size_field: of the configuration: the tower's image, (height, width) unless `width_first`.
        statistics: what a step of its preprocessor normalises images with before the method; None: it takes them in
            [0, 1].
    """

    size_field: str
    anchor: Anchor = "centre"
    prepares: str = ""
    width_first: bool = False
    camera_by_camera: bool = True
    leaves_out: bool = False
    statistics: ImageStatistics | None = None

    def laying(self, policy: nn.Module) -> Laying | None:
        """See `Family`."""
        size = pair(setting(policy, self.size_field))
        if size is None:
            return None
        return Laying(f"letterbox:{self.anchor}", (Fit(size[::-1] if self.width_first else size, self.anchor),))

    def show(self, policy: nn.Module, key: str, image: Tensor) -> object:
        """See `Family`."""
        method = getattr(policy, self.prepares, None)
        if not callable(method):
            raise HostError(
                f"there is no {type(policy).__name__}.{self.prepares} of LeRobot here: use a version that "
                "spaceclip_plugin's extra `lerobot` names; or, of a depth step, fresh=False"
            )
        images, _masks = method({key: image})
        return images[:, 0] if isinstance(images, Tensor) else images[0]

    def normalised(self, image: Tensor) -> Tensor:
        """See `Family`."""
        if self.statistics is None:
            return image
        mean, std = (torch.tensor(values)[:, None, None] for values in (self.statistics.mean, self.statistics.std))
        return (image - mean) / std


_SIZE = "resize_imgs_with_padding"
PI0 = Padded("image_resolution", "centre", "_preprocess_images")
SMOLVLA = Padded(_SIZE, "bottom-right", "prepare_images", width_first=True, leaves_out=True)
XVLA = Padded(_SIZE, "bottom-right", "_prepare_images", camera_by_camera=False, statistics=ImageStatistics.IMAGENET)
