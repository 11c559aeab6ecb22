"""How a LeRobot policy's cameras come to its tower within a step: where their pixels lie, and what shows them to it."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from spaceclip_plugin.attach.declared import PolicyCameras, declared_cameras
from spaceclip_plugin.attach.preparations import told_preparation
from spaceclip_plugin.bridges.lerobot.families.by_class import family_of
from spaceclip_plugin.bridges.lerobot.own_preparation import OwnPreparation
from spaceclip_plugin.data.preparation import DeclaredPreparation, ImagePreparation
from spaceclip_plugin.depth import ImageMapping
from spaceclip_plugin.errors import CaptureError, ConfigError, HostError
from spaceclip_plugin.head.config import DepthHeadConfig
from spaceclip_plugin.towers import ImageGeometry, TowerSpec
from spaceclip_plugin.towers.adapter import lineage
from spaceclip_plugin.towers.image_geometry import said_by_user

_logger = logging.getLogger(__name__)


class CameraGeometry:
    """Where the pixels of each camera lie in the tower's image: as declared by the policy until images were seen.

    Its configuration is that of its training data; the camera that is plugged in may be of another size.
    """

    def __init__(self, policy: nn.Module, holders: Iterable[nn.Module]) -> None:
        self.declared = declared_cameras(holders)
        self._configured = {} if self.declared is None else dict(self.declared.mappings)
        self._seen: dict[str, tuple[int, int]] = {}
        # SmolVLA and X-VLA show images as they are where their configuration has no size to resize them to.
        config = getattr(policy, "config", None)
        unresized = getattr(config, "resize_imgs_with_padding", ()) is None
        self._as_they_are = unresized and family_of(policy) is not None
        self._own = OwnPreparation.known(policy)

    def see(self, camera: str, camera_hw: tuple[int, int]) -> None:
        """Tell the size of a camera's images, (H, W) pixels; a warning where the configuration says another."""
        if self._seen.get(camera) == camera_hw:
            return
        self._seen[camera] = camera_hw
        measured, configured = self.measured(camera), self._configured.get(camera)
        if measured is not None and self.declared is not None and not self._as_they_are:
            self.declared.mappings[camera] = measured  # with which the attachment compares the tower's images
        if configured is not None and configured.camera_hw != camera_hw:
            _logger.warning(
                "camera %r gives images of %dx%d (HxW), the policy's configuration says %dx%d: depth is laid where the "
                "size of its images puts it", camera, *camera_hw, *configured.camera_hw,
            )  # fmt: skip

    def measured(self, camera: str) -> ImageMapping | None:
        """From that camera's image to the tower's, as the policy itself prepares it; None until an image was seen."""
        camera_hw = self._seen.get(camera)
        if camera_hw is None:
            return None
        if self._as_they_are:
            return ImageMapping.stretched(camera_hw, camera_hw)
        if self._own is not None and self._own.takes_photos:
            return self._own.of_camera(camera_hw)
        sizes = {mapping.tower_hw for mapping in self._configured.values()}
        if self.declared is None or len(sizes) != 1:
            return None
        tower_hw, anchor = sizes.pop(), self.declared.anchor
        if anchor is None:
            return ImageMapping.stretched(camera_hw, tower_hw)
        return ImageMapping.letterboxed(camera_hw, tower_hw, anchor=anchor)


class Preparation:
    """What shows a policy's images to its tower when it is run alone.

    As a user declares (`ImageGeometry`), else by the policy's `own` method, else as the head's images were prepared:
    the published stretch, where it does not tell.
    """

    def __init__(self, policy: nn.Module, spec: TowerSpec, head: DepthHeadConfig) -> None:
        holders = [*lineage(policy, spec.path)]
        self._own = OwnPreparation.of(policy) if said_by_user(holders) is None else None
        told = None if self._own is not None else told_preparation(holders, spec, None)
        self._laid: ImagePreparation = told or DeclaredPreparation(_as_learnt(head), spec)  # where there is no own

    def told(self, declared: PolicyCameras | None) -> PolicyCameras | None:
        """What the policy declares, with this in the place of a method that is not its own."""
        if declared is None or self._own is not None:
            return declared
        return dataclasses.replace(declared, preparation=self._laid)

    def __call__(self, key: str, image: Tensor, mapping: ImageMapping | None) -> Tensor:
        """The image (B, 3, H, W) under a key of the batch as (B, 3, h, w), as the policy shows it to its tower.

        HostError where it cannot be prepared, or lies elsewhere than `mapping` says; CaptureError where not finite.
        """
        return _shown(self._laid, key, image) if self._own is None else self._own.shown(key, image, mapping)

    def mapping(self, geometry: CameraGeometry, camera: str, camera_hw: tuple[int, int]) -> ImageMapping | None:
        """From the camera's image, of that size, to what this makes of it; None where that is not known."""
        return self._laid.mapping(camera_hw) if self._own is None else geometry.measured(camera)


def _as_learnt(head: DepthHeadConfig) -> ImageGeometry:
    """How the head's images were prepared, where words can say it; else the published stretch."""
    try:
        return ImageGeometry.STRETCH if head.preparation is None else ImageGeometry.parse(head.preparation)
    except ConfigError:
        return ImageGeometry.STRETCH


def _shown(preparation: ImagePreparation, key: str, image: Tensor) -> Tensor:
    if not torch.isfinite(image).all():
        raise CaptureError(f"{key} holds NaN or infinity; depth from it would mean nothing")
    if not image.is_floating_point() or image.amin() < 0 or image.amax() > 1:
        raise HostError(
            f"{key} must hold floating-point images in [0, 1], to be prepared for the policy's tower "
            f"({preparation.name}); put the depth step before whatever normalises images, or use fresh=False"
        )
    return preparation([photo.permute(1, 2, 0).mul(255).round().byte().cpu().numpy() for photo in image])
