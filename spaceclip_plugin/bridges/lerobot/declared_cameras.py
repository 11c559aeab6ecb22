"""What LeRobot's policies declare of their cameras: in which order their tower sees them, and how images fill it."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from spaceclip_plugin.attach.declared import CameraOrder, PolicyCameras, camera_name
from spaceclip_plugin.bridges.lerobot.families.by_class import family_of
from spaceclip_plugin.bridges.lerobot.families.family import camera_hw
from spaceclip_plugin.bridges.lerobot.own_preparation import PLACEHOLDER, OwnPreparation
from spaceclip_plugin.errors import ConfigError, HostError


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
    name, reason = type(policy).__name__, family.lacking(policy)
    try:
        own = OwnPreparation(policy, family)
    except HostError as error:
        return PolicyCameras(name, order, anchor=family.anchor, lacking=reason or str(error))
    mappings = {}
    for camera, feature in cameras.items():
        hw = camera_hw(feature)
        if not own.takes_photos or hw is None or camera in placeholders:
            continue
        try:
            mappings[camera] = own.of_camera(hw)
        except ConfigError:  # a size that no image can have: declared by mistake, and told by the policy itself
            continue
    preparation = None if reason or not own.takes_photos else own
    return PolicyCameras(name, order, mappings, family.anchor, preparation, reason)
