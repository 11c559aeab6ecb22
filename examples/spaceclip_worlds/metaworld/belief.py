"""What a scripted policy is told instead of the simulator's state: where things are, as far as depth tells.

Where in the image a thing is, is known; how far away it is, is not. Once the hand holds a thing, or leans on it, the
thing is where the hand takes it, and where the hand is a robot knows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from spaceclip_plugin import Intrinsics
from spaceclip_plugin.errors import DataError
from spaceclip_worlds.metaworld.cameras import Pose

Array = npt.NDArray[np.float64]

OBJECT, GOAL = "object", "goal"
SLOTS = {OBJECT: slice(4, 7), GOAL: slice(36, 39)}
"""Where a policy reads each place in its observation of 39 numbers."""

NEAR_PX = 10
"""How far from the pixel of a place its part may be seen, for pictures of 224 pixels."""
_FEWEST_PX = 4
_HAND = slice(0, 4)
_CLOSED = 0.6  # opening of the fingers: less is closed on something, or on nothing
_IN_HAND_M = 0.1
_TOUCH_M = 0.015


@dataclass(frozen=True)
class Sight:
    """Where in a picture a place is: known without knowing how far.

    Attributes:
        pixels: (H, W) bool, where the part is seen whose distance tells the place's.
        ray: (3,) of the world, from the camera to the place, of length one along the optical axis.
        camera_m: (3,) of the world.
    """

    pixels: npt.NDArray[np.bool_]
    ray: Array
    camera_m: Array

    def distance_m(self, depth_m: npt.NDArray[np.floating]) -> float:
        """Of the part along the optical axis: the median of its pixels that have depth.

        Raises:
            DataError: none has.
        """
        seen = depth_m[self.pixels]
        seen = seen[np.isfinite(seen)]
        if seen.size == 0:
            raise DataError("no pixel of the part has depth; look from elsewhere")
        return float(np.median(seen))

    def place(self, distance_m: float) -> Array:
        """(3,) of the world at a distance along the optical axis."""
        return self.camera_m + distance_m * self.ray


def sight(
    place_m: Array,
    part: npt.NDArray[np.bool_],
    intrinsics: Intrinsics,
    pose: Pose,
    *,
    misjudged_px: tuple[float, float] = (0.0, 0.0),
) -> Sight:
    """Where a place is in a picture, and which pixels near it show its part; the pixel of the place if none does.

    Args:
        place_m: (3,) of the world, of which the direction alone is kept.
        part: (H, W) bool, where the part is seen.
        intrinsics: of the picture.
        pose: (4, 4) camera to world.
        misjudged_px: by how many pixels to the right and down the direction is taken wrongly.

    Raises:
        DataError: the place is not in the picture.
    """
    x, y, z = (np.linalg.inv(pose) @ [*place_m, 1.0])[:3]
    height, width = part.shape
    column, row = (intrinsics.matrix().numpy() @ [x / z, y / z, 1.0])[:2] if z > 0.0 else (-1.0, -1.0)
    if not (0.0 <= column < width and 0.0 <= row < height):
        raise DataError(f"the place {np.round(place_m, 3).tolist()} is not in the picture; point the camera at it")
    rows, columns = np.indices(part.shape) + 0.5
    off_px = np.hypot(rows - row, columns - column)
    near_px = NEAR_PX * width / 224
    if np.count_nonzero(part & (off_px <= near_px)) < _FEWEST_PX:  # what there is of it, if anything
        near_px = np.sort(off_px[part])[: 4 * _FEWEST_PX].max() if part.any() else 0.0
    pixels = part & (off_px <= near_px)
    if not pixels.any():
        pixels[int(row), int(column)] = True
    off = np.array([misjudged_px[0] / intrinsics.fx_px, misjudged_px[1] / intrinsics.fy_px, 0.0])
    return Sight(pixels, (place_m - pose[:3, 3]) / z + pose[:3, :3] @ off, pose[:3, 3].copy())


class Belief:
    """A policy's observations of one episode, with places that are believed in the place of those that are true."""

    def __init__(self, places: dict[str, Array], touch_m: Sequence[float] | None = None) -> None:
        """Begin an episode.

        Args:
            places: (3,) of the world for some of `SLOTS`; the others are told as nothing.
            touch_m: (3,) where the hand is, seen from the object's place, when it begins to push it: from there on the
                object goes with the hand. None: it goes with the hand while the fingers hold it.
        """
        self._places = {name: np.array(place, dtype=np.float64) for name, place in places.items()}
        self._touch_m = None if touch_m is None else np.array(touch_m)
        self._from_hand: Array | None = None
        self._lies_at_m = float(self._places[OBJECT][2]) if OBJECT in self._places else 0.0

    def told(self, observation: Array, effort: float) -> Array:
        """(39,) what a policy sees: the hand as it is, places as they are believed, and nothing else.

        Args:
            observation: (39,) Meta-World's of now.
            effort: of the fingers in the last action.
        """
        if OBJECT in self._places:
            self._follow(observation[:3], float(observation[3]), effort)
        seen = np.zeros(39)
        seen[_HAND] = observation[_HAND]
        for name, place_m in self._places.items():
            seen[SLOTS[name]] = place_m
        return seen

    def _follow(self, hand_m: Array, opening: float, effort: float) -> None:
        to_object_m = self._places[OBJECT] - hand_m
        if self._touch_m is not None:
            begins = bool(np.linalg.norm(to_object_m + self._touch_m) <= _TOUCH_M)
        else:
            begins = effort > 0.0 and opening < _CLOSED and bool(np.linalg.norm(to_object_m) <= _IN_HAND_M)
            if effort <= 0.0:
                self._from_hand = None
        if self._from_hand is not None:
            place_m = hand_m + self._from_hand
            if self._touch_m is None and place_m[2] < self._lies_at_m:
                # Fingers close while the hand still sinks: what lies on something stays there, nearer to the hand.
                place_m[2] = self._lies_at_m
                self._from_hand = place_m - hand_m
            self._places[OBJECT] = place_m
        elif begins:
            self._from_hand = to_object_m
