"""What the class of a LeRobot policy decides of its images: how large its tower's are, and what makes them.

Sources: `prepare_images`, `_preprocess_images` and `_prepare_images` of LeRobot 0.4.4 and 0.6.1, which is not imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from spaceclip_plugin.depth.image_mapping import Anchor
from spaceclip_plugin.towers import ImageStatistics


@dataclass(frozen=True)
class Family:
    """What the class of a policy decides."""

    size_field: str  # of the configuration: the tower's image, (height, width) unless `width_first`
    anchor: Anchor  # where the camera's image lies in it
    prepares: str  # name of the method that makes the tower's images of a batch
    width_first: bool = False
    camera_by_camera: bool = True  # the tower runs once per camera; else all cameras are in one batch
    leaves_out: bool = False  # it does not run for missing cameras beyond `empty_cameras`; others show it blank images
    # What a step of its preprocessor normalises images with before the method; None: it takes them in [0, 1].
    normalised: ImageStatistics | None = None

    def tower_hw(self, policy: nn.Module) -> tuple[int, int] | None:
        """(H, W) of the tower's images; None where the configuration does not say it."""
        size = pair(getattr(getattr(policy, "config", None), self.size_field, None))
        return size[::-1] if size is not None and self.width_first else size


_PI0 = Family("image_resolution", "centre", "_preprocess_images")
_SIZE = "resize_imgs_with_padding"
_FAMILIES: Mapping[str, Family] = {
    "PI0Policy": _PI0,
    "PI05Policy": _PI0,
    "PI0FastPolicy": _PI0,
    "SmolVLAPolicy": Family(_SIZE, "bottom-right", "prepare_images", width_first=True, leaves_out=True),
    "XVLAPolicy": Family(
        _SIZE, "bottom-right", "_prepare_images", camera_by_camera=False, normalised=ImageStatistics.IMAGENET
    ),
}


def family_of(policy: nn.Module) -> Family | None:
    """By class name along the MRO; None for another policy, whose methods of these names may do something else."""
    return next((found for cls in type(policy).__mro__ if (found := _FAMILIES.get(cls.__name__))), None)


def pair(size: object) -> tuple[int, int] | None:
    """A size in a configuration, which files hold as a list."""
    match size:
        case [int(first), int(second)]:
            return first, second
    return None
