"""A LeRobot policy's own function that makes its tower's images out of its cameras', for whoever runs the tower alone.

Methods of pi0's family and X-VLA are private: that they are called is logged, and what they return is checked.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from spaceclip_plugin.attach.declared import camera_name
from spaceclip_plugin.bridges.lerobot.families import Family, family_of
from spaceclip_plugin.data.preparation import check_photos
from spaceclip_plugin.depth import ImageMapping
from spaceclip_plugin.errors import HostError

PLACEHOLDER = "empty_camera"
"""What the names of cameras that no robot has begin with."""
_WRONG_CALL = (TypeError, AttributeError, LookupError, ValueError, RuntimeError)
_REMEDY = "use a version of LeRobot that spaceclip_plugin's extra `lerobot` names; or, of a depth step, fresh=False"

_logger = logging.getLogger(__name__)


class OwnPreparation:
    """The method of a policy that prepares its images, and where it lays them; an `ImagePreparation` for photos.

    The policy is not kept alive. A copy in another process has no policy, and only tells where pixels lie.
    """

    portable = False

    def __init__(self, policy: nn.Module, family: Family) -> None:
        self._policy: weakref.ref[nn.Module] | None = weakref.ref(policy)
        self._family = family
        self._tower_hw = family.tower_hw(policy)
        self._key = _a_camera(policy)
        self.method = f"{type(policy).__name__}.{family.prepares} of LeRobot {_version()}"
        self._logged = False
        self._compared: set[ImageMapping] = set()

    @classmethod
    def of(cls, policy: nn.Module) -> OwnPreparation | None:
        """That of a policy of a known family; None for others, and where a later step normalises its images anew."""
        family = family_of(policy)
        modes = getattr(getattr(policy, "config", None), "normalization_mapping", None) or {}
        mode = modes.get("VISUAL", "IDENTITY")
        normalised_later = getattr(mode, "value", mode) != "IDENTITY"  # the method takes images as they are then
        return None if family is None or normalised_later else cls(policy, family)

    @property
    def takes_photos(self) -> bool:
        """Whether photos of any size become images of one size, and the policy has a camera that they can stand for."""
        return self._tower_hw is not None and self._key is not None

    @property
    def name(self) -> str:
        """The method with its class and version, and the size it makes."""
        return f"{self.method}, {self.image_hw[0]}x{self.image_hw[1]}"

    @property
    def kind(self) -> str:
        """Where a photo lies."""
        return f"letterbox:{self._family.anchor}"

    @property
    def image_hw(self) -> tuple[int, int]:
        """(H, W) that the configuration says."""
        if self._tower_hw is None:
            raise HostError(f"{self.method} shows images as they are: the configuration says no size to resize them to")
        return self._tower_hw

    def mapping(self, camera_hw: tuple[int, int]) -> ImageMapping:
        """Where the pixels of a camera's image, of that size, lie in the tower's."""
        return ImageMapping.letterboxed(camera_hw, self.image_hw, anchor=self._family.anchor)

    def __call__(self, images: Sequence[npt.NDArray[np.uint8]]) -> Tensor:
        """(B, 3, h, w) of photos (H, W, 3) uint8 RGB, as the policy's preprocessor and method make them."""
        check_photos(images)
        key = self._key or ""
        prepared: list[Tensor] = []
        for image in images:
            batch = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].float() / 255
            if self._family.normalised is not None:
                mean, std = (
                    torch.tensor(values)[:, None, None]
                    for values in (self._family.normalised.mean, self._family.normalised.std)
                )
                batch = (batch - mean) / std
            prepared.append(self.shown(key, batch, self.mapping((image.shape[0], image.shape[1]))))
        return torch.cat(prepared)

    def shown(self, key: str, image: Tensor, mapping: ImageMapping | None) -> Tensor:
        """The image (B, 3, H, W) under a key of the batch as (B, 3, h, w), as the policy shows it to its tower.

        HostError where it cannot be prepared, or lies elsewhere than `mapping` says.
        """
        policy = None if self._policy is None else self._policy()
        if policy is None:
            raise HostError(f"the policy whose {self.method} prepares images is gone; keep it as long as it is used")
        method = getattr(policy, self._family.prepares, None)
        if not callable(method):
            raise HostError(f"there is no {self.method}: {_REMEDY}")
        if not self._logged:
            self._logged = True
            private = self._family.prepares.startswith("_")
            level, kind = (logging.WARNING, "private ") if private else (logging.INFO, "")
            _logger.log(level, "the tower is run alone on images that the %smethod %s makes", kind, self.method)
        try:
            with torch.no_grad():
                images, _masks = method({key: image})
            prepared = images[:, 0] if isinstance(images, Tensor) else images[0]
        except torch.cuda.OutOfMemoryError:
            raise
        except _WRONG_CALL as error:
            raise HostError(f"{self.method} failed on {key}: {type(error).__name__}: {error}; {_REMEDY}") from error
        return self._checked(prepared, image, mapping)

    def _checked(self, prepared: object, image: Tensor, mapping: ImageMapping | None) -> Tensor:
        """The images, if there is one for each robot, and where the mapping says that there is padding, there is."""
        if not isinstance(prepared, Tensor) or not prepared.is_floating_point() or prepared.ndim != 4:
            given = f"shape {tuple(prepared.shape)}" if isinstance(prepared, Tensor) else type(prepared).__name__
            raise HostError(f"{self.method} gave {given}, not floating-point images (B, 3, h, w); {_REMEDY}")
        wanted = (len(image), 3, *(prepared.shape[2:] if mapping is None else mapping.tower_hw))
        if tuple(prepared.shape) != wanted:
            raise HostError(f"{self.method} gave images {tuple(prepared.shape)} where {wanted} was expected; {_REMEDY}")
        if mapping is not None and mapping not in self._compared:
            padding = prepared[..., ~mapping.valid_tower_pixels().to(prepared.device)]
            if padding.numel() and bool(padding.amax() != padding.amin()):
                raise HostError(
                    f"{self.method} shows picture where padding is expected: it no longer lays the camera's image "
                    f"where {mapping} has it; {_REMEDY}"
                )
            self._compared.add(mapping)
        return prepared

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_policy": None}


def _a_camera(policy: nn.Module) -> str | None:
    """The key of a camera of the policy's that is no placeholder; None where there is none."""
    features = getattr(getattr(policy, "config", None), "image_features", None)
    keys = [str(key) for key in features] if isinstance(features, Mapping) else []
    return next((key for key in keys if not camera_name(key).startswith(PLACEHOLDER)), None)


def _version() -> str:
    try:
        return metadata.version("lerobot")
    except metadata.PackageNotFoundError:
        return "of an unknown version"
