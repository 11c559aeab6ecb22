"""Where looks at a block put it, how uncertain each of them is in which direction, and what they say together.

A look tells the direction to the block to a pixel, and the distance as well as depth does. Looks from several sides
are weighted by their covariances (the information filter): where rays cross, each is told its distance by the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from spaceclip_plugin import DepthMap
from spaceclip_worlds.arm.observation import Observation, block_seen
from spaceclip_worlds.render.scene import Vector

_ACROSS_PX = 1.0
_LEAST_SHARE = 0.01  # standard deviation over depth: of depth that says it is exact, too


@dataclass(frozen=True, eq=False)
class Sighting:
    """What one look says of where the block's centre is.

    Attributes:
        place_m: (3,) in the world.
        information: (3, 3) inverse of its covariance, per square metre.
    """

    place_m: npt.NDArray[np.float64]
    information: npt.NDArray[np.float64]

    @property
    def place(self) -> Vector:
        """The same place, as three numbers."""
        x, y, z = self.place_m.tolist()
        return (x, y, z)

    def widest_m(self) -> npt.NDArray[np.float64]:
        """(3,) one standard deviation in the direction in which it is greatest."""
        values, directions = np.linalg.eigh(self.information)
        widest: npt.NDArray[np.float64] = directions[:, 0] / np.sqrt(values[0])
        return widest

    @classmethod
    def of(cls, observation: Observation, depth: DepthMap, *, half_m: float) -> Sighting | None:
        """What one picture and its depth say; see `locate_block`.

        Args:
            observation: the picture with its camera.
            depth: of that picture, at its size; exact where it tells no uncertainty.
            half_m: half a side of the cube.

        Returns:
            None where too few red pixels are in sight.
        """
        seen = block_seen(observation, depth, half_m=half_m)
        if seen is None:
            return None
        place_m, mask = seen
        ray = place_m - np.array(observation.camera.position_m)
        distance_m, share = float(np.linalg.norm(ray)), _LEAST_SHARE
        if depth.uncertainty_m is not None:
            shares = (depth.uncertainty_m / depth.depth_m)[0].cpu().numpy()[mask]
            share = max(float(np.median(shares)), _LEAST_SHARE)
        along = np.outer(ray, ray) / distance_m**2
        across_m = distance_m * _ACROSS_PX / observation.intrinsics.fy_px
        if mask[[0, -1]].any() or mask[:, [0, -1]].any():  # the picture's edge cuts the block
            across_m += half_m
        return cls(place_m, along / (share * distance_m) ** 2 + (np.eye(3) - along) / across_m**2)


def fused(sightings: Sequence[Sighting]) -> Sighting:
    """What several looks say together; one at least."""
    information = np.sum([each.information for each in sightings], axis=0)
    pulled = np.sum([each.information @ each.place_m for each in sightings], axis=0)
    return Sighting(np.linalg.solve(information, pulled), information)
