"""Where looks at a thing put it, how uncertain each of them is in which direction, and what they say together.

A look tells the direction to a thing to a pixel, and the distance as well as depth does. Looks from several sides are
weighted by their covariances (the information filter): where rays cross, each is told its distance by the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from spaceclip_worlds.render.scene import Vector

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Sighting:
    """What looks say of where a thing is.

    Attributes:
        place_m: (3,) in the world.
        information: (3, 3) inverse of its covariance, per square metre.
    """

    place_m: Array
    information: Array

    @property
    def place(self) -> Vector:
        """The same place, as three numbers."""
        x, y, z = self.place_m.tolist()
        return (x, y, z)

    def widest_m(self) -> Array:
        """(3,) one standard deviation in the direction in which it is greatest."""
        values, directions = np.linalg.eigh(self.information)
        widest: Array = directions[:, 0] / np.sqrt(values[0])
        return widest

    @classmethod
    def of_look(cls, camera_m: Array, place_m: Array, *, along: float, across: float) -> Sighting:
        """What one look says.

        Args:
            camera_m: (3,) from where.
            place_m: (3,) where it puts the thing.
            along: standard deviation of its distance, as a share of that.
            across: the same of its direction, in radians.
        """
        ray = place_m - camera_m
        distance_m = float(np.linalg.norm(ray))
        parallel = np.outer(ray, ray) / distance_m**2
        information = parallel / (along * distance_m) ** 2 + (np.eye(3) - parallel) / (across * distance_m) ** 2
        return cls(place_m, information)


def fused(sightings: Sequence[Sighting]) -> Sighting:
    """What several looks say together; one at least."""
    information = np.sum([each.information for each in sightings], axis=0)
    pulled = np.sum([each.information @ each.place_m for each in sightings], axis=0)
    return Sighting(np.linalg.solve(information, pulled), information)
