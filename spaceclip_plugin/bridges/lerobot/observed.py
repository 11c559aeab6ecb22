"""What the depth step adds to an observation, camera by camera: its keys, and the features that announce them."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from lerobot.configs.types import FeatureType, PipelineFeatureType, PolicyFeature

from spaceclip_plugin.attach.declared import camera_name
from spaceclip_plugin.bridges.lerobot.format import DEPTH_SUFFIX, PREFIX
from spaceclip_plugin.bridges.lerobot.own_preparation import PLACEHOLDER
from spaceclip_plugin.head.config import DepthHeadConfig

AGE_SUFFIX, UNCERTAINTY_SUFFIX = f"{DEPTH_SUFFIX}_age", f"{DEPTH_SUFFIX}_uncertainty"
LENS_SUFFIX, FAMILIARITY_SUFFIX = f"{DEPTH_SUFFIX}_lens_known", f"{DEPTH_SUFFIX}_familiarity"

_CHANNELS = 3


def with_depth(
    features: dict[PipelineFeatureType, dict[str, PolicyFeature]],
    config: DepthHeadConfig,
    *,
    uncertainty: bool,
    cameras: Collection[str] | None,
) -> dict[PipelineFeatureType, dict[str, PolicyFeature]]:
    """The features with those of every camera's depth, of the shapes that one robot's have.

    Args:
        features: of a pipeline; photos among them are `observation.images.NAME` of three channels, channels first.
        config: of the head.
        uncertainty: whether the head tells it.
        cameras: names of those that get depth; None: all but placeholders.
    """
    observed = dict(features.get(PipelineFeatureType.OBSERVATION, {}))
    for key, photo in tuple(observed.items()):
        name = camera_name(key)
        if not _is_photo(key, photo) or (name.startswith(PLACEHOLDER) if cameras is None else name not in cameras):
            continue
        over_photo = PolicyFeature(type=FeatureType.VISUAL, shape=(1, *photo.shape[1:]))
        number = PolicyFeature(type=FeatureType.STATE, shape=())
        observed |= {key + DEPTH_SUFFIX: over_photo, key + AGE_SUFFIX: number}
        if uncertainty:
            observed[key + UNCERTAINTY_SUFFIX] = over_photo
        if config.focal_length is not None:
            observed[key + LENS_SUFFIX] = number
        if config.familiarity is not None:
            observed[key + FAMILIARITY_SUFFIX] = number
    return {**features, PipelineFeatureType.OBSERVATION: observed}


def _is_photo(key: str, feature: Any) -> bool:
    shape: tuple[int, ...] = getattr(feature, "shape", ())
    return key.startswith(PREFIX) and len(shape) == 3 and shape[0] == _CHANNELS
