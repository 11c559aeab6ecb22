"""Things, marks and a camera where no task puts them: depth shall not be read from what a task always does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from spaceclip_worlds.metaworld.cameras import Pose, moved

_STAYS = ("tablelink", "RetainingWall", "base", "mocap")  # bodies of Meta-World's world that are the room and the robot
_MOVED = 0.7  # share of the pictures whose things are elsewhere
_ASIDE_M, _HIGHER_M = 0.08, 0.12
_MOST_MARKS = 8
_MARKS_M = np.array([[-0.4, 0.45, 0.02], [0.4, 1.0, 0.45]])  # two corners of the air above the table
_RADII_M, _LARGE = (0.01, 0.02), 0.7  # of Meta-World's marks, and the share of the larger ones
_OWN_COLOUR = 0.5  # share of marks that have a colour of Meta-World's
_COLOURS = np.array([[0.8, 0.0, 0.0], [0.0, 0.8, 0.0], [0.0, 0.0, 0.8]])
_NEARER, _NEARER_M = 0.5, 0.4  # share of the pictures that are taken from nearer, and from how much at most
_WAY = 0.5  # share of the way to the table that a camera comes at most: one on a wrist has little room

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Mark:
    """A ball in the air, such as Meta-World marks goals with.

    Attributes:
        place_m: (3,) of the world.
        radius_m: of the ball.
        colour: (3,) RGB in [0, 1].
    """

    place_m: Array
    radius_m: float
    colour: Array


@dataclass(frozen=True)
class Placement:
    """What is elsewhere in one picture.

    Attributes:
        offset_m: (3,) by which all things on the table are elsewhere.
        marks: balls in the air beside the task's own.
    """

    offset_m: Array
    marks: tuple[Mark, ...]

    @classmethod
    def drawn(cls, generator: np.random.Generator) -> Placement:
        """One at random."""
        offset_m = generator.uniform([-_ASIDE_M, -_ASIDE_M, 0.0], [_ASIDE_M, _ASIDE_M, _HIGHER_M])
        if generator.random() >= _MOVED:
            offset_m = np.zeros(3)
        return cls(offset_m, tuple(_mark(generator) for _ in range(generator.integers(0, _MOST_MARKS + 1))))

    @contextmanager
    def shown_in(self, model: Any, data: Any) -> Iterator[None]:
        """Have the things of an `mjData` there while it is drawn. It stays as it is otherwise, and is put right again:
        what is drawn is where things seem to be, not the state that goes on."""
        things = _on_the_table(model)
        kept = data.geom_xpos.copy(), data.site_xpos.copy()
        data.geom_xpos[things[model.geom_bodyid]] += self.offset_m
        data.site_xpos[things[model.site_bodyid]] += self.offset_m
        try:
            yield
        finally:
            data.geom_xpos[:], data.site_xpos[:] = kept


def looked_from(name: str, pose: Pose, generator: np.random.Generator) -> Pose:
    """The pose of a camera that was mounted again, and in some pictures carried towards the table that it looks at."""
    pose = moved(name, pose, generator)
    if generator.random() < _NEARER:
        to_table_m = pose[2, 3] / -pose[2, 2] if pose[2, 2] < 0.0 else 0.0
        pose[:3, 3] += min(generator.uniform(0.0, _NEARER_M), _WAY * max(to_table_m, 0.0)) * pose[:3, 2]
    return pose


def _on_the_table(model: Any) -> npt.NDArray[np.bool_]:
    """(bodies,): those that are neither the room nor the robot."""
    return np.array([index > 0 and model.body(root).name not in _STAYS for index, root in enumerate(model.body_rootid)])


def _mark(generator: np.random.Generator) -> Mark:
    colour = generator.random(3)
    if generator.random() < _OWN_COLOUR:
        colour = _COLOURS[generator.integers(len(_COLOURS))]
    radius_m = _RADII_M[int(generator.random() < _LARGE)]
    return Mark(generator.uniform(*_MARKS_M), radius_m, colour)
