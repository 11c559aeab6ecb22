"""What LeRobot's policies declare of their cameras: in which order their tower sees them, and how images fill it."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from spaceclip_plugin.attach.declared import CameraOrder, PolicyCameras, camera_name
from spaceclip_plugin.bridges.lerobot.families import family_of, pair
from spaceclip_plugin.bridges.lerobot.own_preparation import PLACEHOLDER, OwnPreparation
from spaceclip_plugin.depth import ImageMapping
from spaceclip_plugin.errors import ConfigError

_CHANNELS = 3


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
    tower_hw = family.tower_hw(policy)
    mappings = {}
    for name, feature in cameras.items():
        camera_hw = _camera_hw(feature)
        if tower_hw is None or camera_hw is None or name in placeholders:
            continue
        try:
            mappings[name] = ImageMapping.letterboxed(camera_hw, tower_hw, anchor=family.anchor)
        except ConfigError:  # a size that no image can have: declared by mistake, and told by the policy itself
            continue
    own = OwnPreparation.of(policy)
    preparation = own if own is not None and own.takes_photos else None
    return PolicyCameras(type(policy).__name__, order, mappings, family.anchor, preparation)


def _camera_hw(feature: object) -> tuple[int, int] | None:
    """Height and width in the shape of a camera's feature, channels first or last."""
    shape = tuple(getattr(feature, "shape", None) or ())
    if len(shape) != 3:
        return None
    return pair(shape[1:] if shape[0] == _CHANNELS else shape[:2] if shape[2] == _CHANNELS else None)
