"""How a LeRobot policy makes its tower's images out of its cameras': its own function for that, and where pixels lie.

Methods of pi0's family and X-VLA are private: that they are called is logged, and what they return is checked.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from importlib import metadata

import torch
from torch import Tensor, nn

from spaceclip_plugin.attach.declared import declared_cameras
from spaceclip_plugin.bridges.lerobot.declared_cameras import family_of
from spaceclip_plugin.data import prepare
from spaceclip_plugin.depth import ImageMapping
from spaceclip_plugin.errors import CaptureError, HostError
from spaceclip_plugin.towers import TowerSpec

_WRONG_CALL = (TypeError, AttributeError, LookupError, ValueError, RuntimeError)
_REMEDY = "use fresh=False, or a version of LeRobot that spaceclip_plugin's extra `lerobot` names"

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
        sizes = {mapping.tower_hw for mapping in self._configured.values()}
        if self.declared is None or len(sizes) != 1:
            return None
        return ImageMapping.letterboxed(camera_hw, sizes.pop(), anchor=self.declared.anchor)


class Preparation:
    """What shows a policy's images to its tower when it is run alone: its `own` method, or `data.preparation`."""

    def __init__(self, policy: nn.Module, spec: TowerSpec) -> None:
        self._spec = spec
        family = family_of(policy)
        modes = getattr(getattr(policy, "config", None), "normalization_mapping", None) or {}
        mode = modes.get("VISUAL", "IDENTITY")
        normalised_later = getattr(mode, "value", mode) != "IDENTITY"  # the method takes images as they are then
        self.own = None if family is None or normalised_later else family.prepares
        self._logged = False
        self._compared: set[ImageMapping] = set()

    def __call__(self, policy: nn.Module, key: str, image: Tensor, mapping: ImageMapping | None) -> Tensor:
        """The image (B, 3, H, W) under a key of the batch as (B, 3, h, w), as the policy shows it to its tower.

        HostError where it cannot be prepared, or lies elsewhere than `mapping` says; CaptureError where not finite.
        """
        if self.own is None:
            return self._prepared_here(key, image)
        name = f"{type(policy).__name__}.{self.own} of LeRobot {_version()}"
        method = getattr(policy, self.own, None)
        if not callable(method):
            raise HostError(f"there is no {name}: {_REMEDY}")
        if not self._logged:
            self._logged = True
            private = self.own.startswith("_")
            level, kind = (logging.WARNING, "private ") if private else (logging.INFO, "")
            _logger.log(level, "fresh depth is of the images that the %smethod %s makes", kind, name)
        try:
            images, _masks = method({key: image})
            prepared = images[:, 0] if isinstance(images, Tensor) else images[0]
        except torch.cuda.OutOfMemoryError:
            raise
        except _WRONG_CALL as error:
            raise HostError(f"{name} failed on {key}: {type(error).__name__}: {error}; {_REMEDY}") from error
        return self._checked(prepared, image, mapping, name=name)

    def mapping(self, geometry: CameraGeometry, camera: str, camera_hw: tuple[int, int]) -> ImageMapping | None:
        """From the camera's image, of that size, to what this makes of it; None where that is not known."""
        return ImageMapping.stretched(camera_hw, self._spec.image_hw) if self.own is None else geometry.measured(camera)

    def _checked(self, prepared: object, image: Tensor, mapping: ImageMapping | None, *, name: str) -> Tensor:
        """The images, if there is one for each robot, and where the mapping says that there is padding, there is."""
        if not isinstance(prepared, Tensor) or not prepared.is_floating_point() or prepared.ndim != 4:
            given = f"shape {tuple(prepared.shape)}" if isinstance(prepared, Tensor) else type(prepared).__name__
            raise HostError(f"{name} gave {given}, not floating-point images (B, 3, h, w); {_REMEDY}")
        wanted = (len(image), 3, *(prepared.shape[2:] if mapping is None else mapping.tower_hw))
        if tuple(prepared.shape) != wanted:
            raise HostError(f"{name} gave images {tuple(prepared.shape)} where {wanted} was expected; {_REMEDY}")
        if mapping is not None and mapping not in self._compared:
            padding = prepared[..., ~mapping.valid_tower_pixels().to(prepared.device)]
            if padding.numel() and bool(padding.amax() != padding.amin()):
                raise HostError(
                    f"{name} shows picture where padding is expected: it no longer lays the camera's image where "
                    f"{mapping} has it; {_REMEDY}"
                )
            self._compared.add(mapping)
        return prepared

    def _prepared_here(self, key: str, image: Tensor) -> Tensor:
        if not torch.isfinite(image).all():
            raise CaptureError(f"{key} holds NaN or infinity; depth from it would mean nothing")
        if not image.is_floating_point() or image.amin() < 0 or image.amax() > 1:
            raise HostError(
                f"{key} must hold floating-point images in [0, 1], to be prepared for the {self._spec}; put the depth "
                "step before whatever normalises images, or use fresh=False"
            )
        photos = [photo.permute(1, 2, 0).mul(255).round().byte().cpu().numpy() for photo in image]
        return prepare(photos, self._spec)


def _version() -> str:
    try:
        return metadata.version("lerobot")
    except metadata.PackageNotFoundError:
        return "of an unknown version"
