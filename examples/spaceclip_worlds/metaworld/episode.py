"""Which pictures there are: short episodes of tasks, in an order that takes all tasks in turn.

Every number here is drawn from a generator of its own (seed, split, task, episode), so that a picture never depends on
what was drawn before it, nor on how many pictures there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from spaceclip_worlds.metaworld.tasks import SPLITS

FRAMES = 4
"""Pictures of one episode: setting up a task takes as long as drawing several."""

VARIED, STANDARD, MOVED = "varied", "standard", "moved"
LOOKS = (VARIED, STANDARD, MOVED)


@dataclass(frozen=True)
class Picture:
    """What is the same for all pictures of a data set.

    Attributes:
        image_hw: size in pixels.
        cameras: names, of which every picture has one.
        look: `VARIED`; `STANDARD` for Meta-World's own colours, lights and camera poses; or `MOVED`, in the same
            colours and lights, for things, marks and a camera that are elsewhere.
    """

    image_hw: tuple[int, int]
    cameras: tuple[str, ...]
    look: str


@dataclass(frozen=True)
class Episode:
    """One start of a task.

    Attributes:
        seed, split: of the data set.
        task: Meta-World's name of it.
        visit: which of its starts, from 0.
    """

    seed: int
    split: str
    task: str
    visit: int

    def generator(self) -> np.random.Generator:
        """The source of every choice of this episode, from its beginning."""
        return _generator(self.seed, self.split, SPLITS[self.split].index(self.task), self.visit)

    def __str__(self) -> str:
        return f"{self.task} {self.split} seed {self.seed} episode {self.visit}"


def episode_of(index: int, *, seed: int, split: str, tasks: Sequence[str]) -> Episode:
    """The episode that picture `index` belongs to: every task once in random order, then every task again, …"""
    visit, turn = divmod(index // FRAMES, len(tasks))
    order = _generator(seed, split, visit).permutation(len(tasks))
    return Episode(seed, split, tasks[order[turn]], visit)


def _generator(seed: int, split: str, *numbers: int) -> np.random.Generator:
    # A spawn key keeps apart what differs in any number, whatever their sizes.
    key = (list(SPLITS).index(split), *numbers)
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))
