"""Steady depth of a policy's robots: in metres of their cameras, by the places that the observation tells."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor

from spaceclip_plugin import DepthMap
from spaceclip_plugin.bridges.lerobot.lenses import PolicyLenses
from spaceclip_plugin.depth.pose import poses_of_images
from spaceclip_plugin.errors import ConfigError, HostError, nearest
from spaceclip_plugin.steady import Look, SteadyDepth

PLACE_PREFIX = "observation.camera_to_world."
"""Of the keys under which an observation tells where cameras are, before their names."""

_logger = logging.getLogger(__name__)


class SteadyRobots(SteadyDepth):
    """Follows depth in metres of the robots' cameras, whose intrinsics the steps of a policy were told."""

    def __init__(self, lenses: PolicyLenses) -> None:
        super().__init__()
        self._lenses = lenses
        self._warned: set[str | None] = set()

    def update(self, depth: DepthMap, look: Look, place: Any = None) -> DepthMap:
        """As `SteadyDepth.update`; HostError where the intrinsics are not of these images."""
        if depth.camera is not None and depth.mapping is not None:  # else the link says what is not known
            depth = self._lenses.applied(depth)
        if place is not None and depth.intrinsics is None and depth.camera not in self._warned:
            self._warned.add(depth.camera)
            _logger.warning(
                "it is told where camera %r is, but not its intrinsics: motion is taken from its images. Give the "
                "depth step intrinsics=", depth.camera,
            )  # fmt: skip
        return super().update(depth, look, place)


def places_in(observation: Mapping[str, Any], cameras: Collection[str], *, robots: int) -> dict[str, Tensor]:
    """Where the cameras of these names are, (B, 4, 4) each, as far as the observation tells it.

    HostError where that is no place, of no camera of the policy, or of another number of robots.
    """
    found: dict[str, Tensor] = {}
    for key in observation:
        if not key.startswith(PLACE_PREFIX):
            continue
        name = key.removeprefix(PLACE_PREFIX)
        if name not in cameras:
            raise HostError(
                f"{key} is of no camera of this policy{nearest(name, cameras)}; its cameras: {', '.join(cameras)}"
            )
        try:
            found[name] = poses_of_images(observation[key], robots)
        except ConfigError as error:
            raise HostError(f"{key}: {error}") from error
    return found
