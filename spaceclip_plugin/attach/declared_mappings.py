"""How known policies pad their cameras' images, as their own configuration tells.

LeRobot's policies resize a camera's image with its aspect ratio and fill up the rest of their tower's. Which size,
which size of camera and which side is padded stands in their class and its configuration; a user need not repeat it.
The camera that is plugged in may be of another size than the configuration's: a mapping is believed once the padding
that the tower sees is the one it says.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import nn

from spaceclip_plugin.depth.image_mapping import Anchor, ImageMapping
from spaceclip_plugin.errors import ConfigError

PLACEHOLDER = "empty_camera"
"""What the names of cameras that no robot has begin with, in LeRobot."""
_PREFIXES = ("observation.images.", "observation.")
_CHANNELS = 3


class DeclaredMappings(dict[str, ImageMapping]):
    """Mappings by camera as a policy's configuration declares them: to be compared with what its tower sees.

    Attributes:
        policy: class name of the policy.
        anchor: where it puts the camera's image in the padded one.
    """

    def __init__(self, mappings: Mapping[str, ImageMapping], *, policy: str, anchor: Anchor) -> None:
        super().__init__(mappings)
        self.policy = policy
        self.anchor: Anchor = anchor


@dataclass(frozen=True)
class _Padding:
    """How one family of policies pads: where its image lies, and which field of its configuration tells the size."""

    anchor: Anchor
    field: str
    width_first: bool = False


_CENTRED = _Padding("centre", "image_resolution")
# By class name along the MRO. Sources: `prepare_images`, `_preprocess_images` and `_prepare_images` of LeRobot 0.4.4
# and 0.6.1. SmolVLA's field is (width, height), the others' (height, width).
_PADDING: Mapping[str, _Padding] = {
    "PI0Policy": _CENTRED,
    "PI05Policy": _CENTRED,
    "PI0FastPolicy": _CENTRED,
    "SmolVLAPolicy": _Padding("bottom-right", "resize_imgs_with_padding", width_first=True),
    "XVLAPolicy": _Padding("bottom-right", "resize_imgs_with_padding"),
}


def declared_mappings(holders: Iterable[nn.Module]) -> dict[str, ImageMapping]:
    """How the policy among a tower's holders makes the tower's image of each of its cameras' images.

    Args:
        holders: the tower and everything that holds it (`token_adapter.lineage`).

    Returns:
        Mappings by camera name, without placeholders; empty where nothing is known, where the policy does not resize
        its images, and without a camera whose size is not declared. The configuration may be of other cameras than
        those that are plugged in: hand the result to `attach_depth_head` as it is, and it is compared with what the
        tower sees.
    """
    for module in holders:
        padding = next((found for cls in type(module).__mro__ if (found := _PADDING.get(cls.__name__))), None)
        if padding is not None:
            return _declared(type(module).__name__, getattr(module, "config", None), padding)
    return {}


def short_name(key: str) -> str:
    """`front` of `observation.images.front`."""
    for prefix in _PREFIXES:
        key = key.removeprefix(prefix)
    return key


def _declared(policy: str, config: object, padding: _Padding) -> dict[str, ImageMapping]:
    tower_hw = _pair(getattr(config, padding.field, None))
    features = getattr(config, "image_features", None)
    if tower_hw is None or not isinstance(features, Mapping):
        return {}
    if padding.width_first:
        tower_hw = (tower_hw[1], tower_hw[0])
    cameras = {short_name(str(key)): _camera_hw(feature) for key, feature in features.items()}
    mappings = {}
    for name, camera_hw in cameras.items():
        if camera_hw is None or name.startswith(PLACEHOLDER):
            continue
        try:
            mappings[name] = ImageMapping.letterboxed(camera_hw, tower_hw, anchor=padding.anchor)
        except ConfigError:  # a size that no image can have: declared by mistake, and told by the policy itself
            continue
    return DeclaredMappings(mappings, policy=policy, anchor=padding.anchor)


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
