"""Meta-World with something to draw with, or a stated reason to skip."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator

import pytest

if sys.platform == "linux":
    os.environ.setdefault("MUJOCO_GL", "egl")  # it is read once, when mujoco is imported

from spaceclip_plugin.errors import ConfigError
from spaceclip_worlds.metaworld.easel import draw_episode
from spaceclip_worlds.metaworld.episode import VARIED, Episode, Picture
from spaceclip_worlds.metaworld.frame import Frame
from spaceclip_worlds.metaworld.studio import studio

Draw = Callable[..., list[Frame]]


def drawn(
    task: str = "drawer-open-v3",
    *,
    visit: int = 0,
    split: str = "train",
    look: str = VARIED,
    cameras: tuple[str, ...] = ("corner2",),
    image_hw: tuple[int, int] = (48, 64),
) -> list[Frame]:
    """The frames of an episode, drawn in this process."""
    return list(draw_episode(Episode(3, split, task, visit), Picture(image_hw, cameras, look)))


@pytest.fixture(scope="session")
def draw() -> Draw:
    """`drawn`, or a skip where Meta-World is missing or MuJoCo cannot draw."""
    try:
        drawn(image_hw=(8, 8))
    except ConfigError as error:
        pytest.skip(f"no pictures of Meta-World here: {error}")
    return drawn


@pytest.fixture
def drawing_process() -> Iterator[None]:
    """Ends the process that draws, if the test made one."""
    yield
    studio().close()
