"""What of a LeRobot policy makes its tower's images out of its cameras', for whoever runs the tower alone.

Some of it is private: that it is called is logged, and what it returns is checked.
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
from spaceclip_plugin.bridges.lerobot.families.by_class import family_of
from spaceclip_plugin.bridges.lerobot.families.family import Family, Laying, camera_sizes
from spaceclip_plugin.data.preparation import check_photos
from spaceclip_plugin.depth import ImageMapping
from spaceclip_plugin.errors import HostError
from spaceclip_plugin.towers import ImageGeometry

PLACEHOLDER = "empty_camera"
"""What the names of cameras that no robot has begin with."""
_WRONG_CALL = (TypeError, AttributeError, LookupError, ValueError, RuntimeError)
_SAME_SHAPE = 1.25  # of widths over heights; versions of a photo differ, too
_REMEDY = "use a version of LeRobot that spaceclip_plugin's extra `lerobot` names; or, of a depth step, fresh=False"

_logger = logging.getLogger(__name__)


class OwnPreparation:
    """The part of a policy that prepares its images, and where it lays them; an `ImagePreparation` for photos.

    The policy is not kept alive. A copy in another process has no policy, and only tells where pixels lie.
    """

    portable = False

    def __init__(self, policy: nn.Module, family: Family) -> None:
        self._policy: weakref.ref[nn.Module] | None = weakref.ref(policy)
        self._family = family
        try:
            self._laying = family.laying(policy)
        except _WRONG_CALL as error:
            raise HostError(f"what {family.prepares} makes is not known: {type(error).__name__}: {error}") from error
        self._key = _a_camera(policy)
        self._camera_hw = next(iter(camera_sizes(policy)), None)
        self.method = f"{type(policy).__name__}.{family.prepares} of LeRobot {_version()}"
        self._logged = self._stretched = False
        self._compared: set[ImageMapping] = set()
        self._shown_hw: dict[tuple[int, int], tuple[int, int]] = {}

    @classmethod
    def of(cls, policy: nn.Module) -> OwnPreparation | None:
        """That of a policy of a known family; None for others, and where it cannot be used: a warning says why."""
        family = family_of(policy)
        if family is None:
            return None
        reason = family.lacking(policy)
        try:
            own = cls(policy, family)
        except HostError as error:
            reason = reason or str(error)
        if reason:
            _logger.warning("images are not prepared as %s does it: %s", type(policy).__name__, reason)
            return None
        return own

    @classmethod
    def known(cls, policy: nn.Module) -> OwnPreparation | None:
        """That of a policy of a known family, if it is there, though its pixels may not be those that it acts on."""
        family = family_of(policy)
        try:
            return None if family is None else cls(policy, family)
        except HostError:
            return None

    @property
    def takes_photos(self) -> bool:
        """Whether photos of any size become images of one size, and the policy has a camera that they can stand for."""
        return self._laying is not None and self._key is not None

    @property
    def name(self) -> str:
        """The method with its class and version, and the size it makes."""
        return f"{self.method}, {self.image_hw[0]}x{self.image_hw[1]}"

    @property
    def kind(self) -> str:
        """Where a photo lies."""
        return self._laid.kind

    @property
    def image_hw(self) -> tuple[int, int]:
        """(H, W) that the configuration says."""
        return self._laid.tower_hw

    def mapping(self, camera_hw: tuple[int, int]) -> ImageMapping:
        """Where the pixels of a photo of that size lie in the tower's image."""
        return self._laid.mapping(camera_hw)

    def of_camera(self, camera_hw: tuple[int, int]) -> ImageMapping:
        """Where the pixels of the image of a camera of that size lie in what the policy makes of it."""
        if not self._family.follows_camera:
            return self.mapping(camera_hw)
        if camera_hw not in self._shown_hw:
            shown = self.shown(self._key or "", torch.zeros(1, 3, *camera_hw), None)
            self._shown_hw[camera_hw] = (shown.shape[2], shown.shape[3])
        return ImageMapping.stretched(camera_hw, self._shown_hw[camera_hw])

    def __call__(self, images: Sequence[npt.NDArray[np.uint8]]) -> Tensor:
        """(B, 3, h, w) of photos (H, W, 3) uint8 RGB, as the policy's preprocessor and method make them.

        Where the tower's image follows the camera's shape, photos of another are stretched to the camera's before.
        """
        check_photos(images)
        key = self._key or ""
        prepared: list[Tensor] = []
        for image in images:
            hw = (image.shape[0], image.shape[1])
            if self._family.follows_camera and self.of_camera(hw).tower_hw != self.image_hw:
                image = self._as_its_camera(image)
            batch = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].float() / 255
            mapping = self.mapping((image.shape[0], image.shape[1]))
            prepared.append(self.shown(key, self._family.normalised(batch), mapping))
        return torch.cat(prepared)

    def _as_its_camera(self, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        height, width = hw = (image.shape[0], image.shape[1])
        rows, columns = self._camera_hw or hw
        if not self._stretched and abs(np.log((width * rows) / (height * columns))) > np.log(_SAME_SHAPE):
            self._stretched = True
            _logger.warning(
                "photos of %dx%d (HxW) are of another shape than the camera of the %s, %dx%d: they are stretched to it",
                height, width, self.method.partition(".")[0], rows, columns,
            )  # fmt: skip
        return np.array(ImageGeometry.STRETCH.image(image, (rows, columns)))

    def shown(self, key: str, image: Tensor, mapping: ImageMapping | None) -> Tensor:
        """The image (B, 3, H, W) under a key of the batch as (B, 3, h, w), as the policy shows it to its tower.

        HostError where it cannot be prepared, or lies elsewhere than `mapping` says.
        """
        policy = None if self._policy is None else self._policy()
        if policy is None:
            raise HostError(f"the policy whose {self.method} prepares images is gone; keep it as long as it is used")
        if not self._logged:
            self._logged = True
            private = self._family.prepares.rpartition(".")[2].startswith("_")
            level, kind = (logging.WARNING, "private ") if private else (logging.INFO, "")
            _logger.log(level, "the tower is run alone on images that the %smethod %s makes", kind, self.method)
        try:
            with torch.no_grad():
                prepared = self._family.show(policy, key, image)
        except (torch.cuda.OutOfMemoryError, HostError):
            raise
        except _WRONG_CALL as error:
            raise HostError(f"{self.method} failed on {key}: {type(error).__name__}: {error}; {_REMEDY}") from error
        return self._checked(prepared, image, mapping)

    @property
    def _laid(self) -> Laying:
        if self._laying is None:
            raise HostError(f"{self.method} shows images as they are: the configuration says no size to resize them to")
        return self._laying

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
