"""What a table of known place says about depth: its scale, and what would be seen if nothing stood on it."""

from __future__ import annotations

import numpy as np

from spaceclip_plugin import DepthMap
from spaceclip_plugin.depth import align_to_plane
from spaceclip_plugin.errors import DataError
from spaceclip_worlds.arm.observation import Observation

_GRAZING = 0.1
GUESSED = 0.2
"""Standard deviation over depth of what is guessed."""


def aligned_to_table(depth: DepthMap, observation: Observation) -> DepthMap:
    """Depth at the scale at which the table lies where it is known to be; unchanged where it cannot be told."""
    try:
        return align_to_plane(depth, observation.intrinsics, plane=observation.table).apply(depth)
    except DataError:  # the table is not in the picture, or something as large is
        return depth


def table_depth(observation: Observation) -> DepthMap:
    """The depth of an empty table: what can be known without depth."""
    ones = observation.depth_map(np.ones_like(observation.depth_m))
    rays = ones.points(observation.intrinsics)[0].double().numpy()
    plane = observation.table
    along = rays @ np.array(plane.normal) / plane.distance_m
    # Rays that look over the horizon meet it nowhere: far away is as good as any place.
    return observation.depth_map((1.0 / np.maximum(along, _GRAZING)).astype(np.float32), uncertainty=GUESSED)
