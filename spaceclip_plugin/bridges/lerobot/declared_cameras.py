"""What LeRobot's policies declare of their cameras: in which order their tower sees them, and how images fill it.

Sources: `prepare_images`, `_preprocess_images` and `_prepare_images` of LeRobot 0.4.4 and 0.6.1, which is not imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from spaceclip_plugin.attach.declared import CameraOrder, PolicyCameras, camera_name
from spaceclip_plugin.depth import ImageMapping
from spaceclip_plugin.depth.image_mapping import Anchor
from spaceclip_plugin.errors import ConfigError

PLACEHOLDER = "empty_camera"
"""What the names of cameras that no robot has begin with."""
_CHANNELS = 3


@dataclass(frozen=True)
class Family:
    """What the class of a policy decides."""

    size_field: str  # of the configuration: the tower's image, (height, width) unless `width_first`
    anchor: Anchor  # where the camera's image lies in it
    prepares: str  # name of the method that makes the tower's images of a batch
    width_first: bool = False
    camera_by_camera: bool = True  # the tower runs once per camera; else all cameras are in one batch
    leaves_out: bool = False  # it does not run for missing cameras beyond `empty_cameras`; others show it blank images


_PI0 = Family("image_resolution", "centre", "_preprocess_images")
_SIZE = "resize_imgs_with_padding"
_FAMILIES: Mapping[str, Family] = {
    "PI0Policy": _PI0,
    "PI05Policy": _PI0,
    "PI0FastPolicy": _PI0,
    "SmolVLAPolicy": Family(_SIZE, "bottom-right", "prepare_images", width_first=True, leaves_out=True),
    "XVLAPolicy": Family(_SIZE, "bottom-right", "_prepare_images", camera_by_camera=False),
}


def family_of(policy: nn.Module) -> Family | None:
    """By class name along the MRO; None for another policy, whose methods of these names may do something else."""
    return next((found for cls in type(policy).__mro__ if (found := _FAMILIES.get(cls.__name__))), None)


def camera_names(policy: nn.Module) -> dict[str, str]:
    """Names of a policy's cameras by the key of their images in a batch, without placeholders."""
    features = getattr(getattr(policy, "config", None), "image_features", None)
    keys = [str(key) for key in features] if isinstance(features, Mapping) else []
    return {key: name for key in keys if not (name := camera_name(key)).startswith(PLACEHOLDER)}


def declared_cameras(policy: nn.Module) -> PolicyCameras:
    """What the configuration of a policy says of its cameras; the entry points name this for their classes."""
    family = family_of(policy)
    if family is None:
        return PolicyCameras(type(policy).__name__)
    config = getattr(policy, "config", None)
    features = getattr(config, "image_features", None)
    cameras = {camera_name(str(key)): each for key, each in features.items()} if isinstance(features, Mapping) else {}
    placeholders = frozenset(name for name in cameras if name.startswith(PLACEHOLDER))
    order = CameraOrder()
    if family.camera_by_camera:
        leaves_out = family.leaves_out and getattr(config, "empty_cameras", None) == len(placeholders)
        order = CameraOrder(tuple(cameras), placeholders, leaves_out)
    tower_hw = _pair(getattr(config, family.size_field, None))
    if tower_hw is not None and family.width_first:
        tower_hw = tower_hw[::-1]
    mappings = {}
    for name, feature in cameras.items():
        camera_hw = _camera_hw(feature)
        if tower_hw is None or camera_hw is None or name in placeholders:
            continue
        try:
            mappings[name] = ImageMapping.letterboxed(camera_hw, tower_hw, anchor=family.anchor)
        except ConfigError:  # a size that no image can have: declared by mistake, and told by the policy itself
            continue
    return PolicyCameras(type(policy).__name__, order, mappings, family.anchor)


def _camera_hw(feature: object) -> tuple[int, int] | None:
    """Height and width in the shape of a camera's feature, channels first or last."""
    shape = tuple(getattr(feature, "shape", None) or ())
    if len(shape) != 3:
        return None
    return _pair(shape[1:] if shape[0] == _CHANNELS else shape[:2] if shape[2] == _CHANNELS else None)


def _pair(size: object) -> tuple[int, int] | None:
    """A size in a configuration, which files hold as a list."""
    match size:
        case [int(first), int(second)]:
            return first, second
    return None
