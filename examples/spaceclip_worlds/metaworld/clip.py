"""Clips of Meta-World: drawn once, kept on disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from spaceclip_plugin._checks import choice, whole
from spaceclip_plugin.data.sources.spec import checked_path
from spaceclip_worlds.clip import ClipFrame
from spaceclip_worlds.metaworld.clip_file import read_clip
from spaceclip_worlds.metaworld.clip_order import ClipOrder
from spaceclip_worlds.metaworld.film import FILMED_TASKS, MOUNTS, STATIC, Shot
from spaceclip_worlds.metaworld.kept import kept
from spaceclip_worlds.metaworld.key import clip_key
from spaceclip_worlds.metaworld.spec import default_cache

_LONGEST = 120  # Meta-World ends an episode after 500 steps, of which four make a frame
_MAX = 10**9
_SIDE_PX = (8, 2048)


@dataclass(frozen=True)
class MetaWorldClip:
    """A clip of one task in Meta-World's own look, 20 frames a second, in which its scripted policy does the task.

    Clips of one task and one seed show the same events. Filming again gives the same bits with the same versions of
    MuJoCo, Meta-World and the graphics driver.

    Attributes:
        task: Meta-World's name of it; those of `TEST_TASKS` are in no training data.
        camera: "static", where LeRobot's policies look from; "moving", carried about that place; "wrist", on the hand.
        length: frames; most tasks are done after 40.
        seed: of the task's start and of the path of the moving camera.
        height_px, width_px: size of image, depth and mask.
        cache: folder that clips are kept in; None is spaceclip/metaworld in XDG_CACHE_HOME, or in ~/.cache.

    Raises:
        ConfigError: a value that cannot be.

    Example:
        >>> str(MetaWorldClip("hammer-v3", camera="moving"))  # its `frames()` need the simulator
        'hammer-v3, moving camera, 40 frames, seed 0'
    """

    task: str
    camera: str = STATIC
    length: int = 40
    seed: int = 0
    height_px: int = 224
    width_px: int = 224
    cache: str | None = None

    def __post_init__(self) -> None:
        choice("task of a metaworld clip", self.task, FILMED_TASKS)
        choice("camera of a metaworld clip", self.camera, MOUNTS)
        whole("length of a metaworld clip", self.length, 1, _LONGEST)
        whole("seed of a metaworld clip", self.seed, 0, _MAX)
        whole("height_px of a metaworld clip", self.height_px, *_SIDE_PX)
        whole("width_px of a metaworld clip", self.width_px, *_SIDE_PX)
        if self.cache is not None:
            checked_path("cache of a metaworld clip", self.cache)

    def __str__(self) -> str:
        return str(self._shot())

    def frames(self) -> tuple[ClipFrame, ...]:
        """The frames in the order of time. They are drawn when they are first asked for, by a process of its own, and
        read from their file from then on.

        Raises:
            ConfigError: they have to be drawn, and Meta-World or OpenGL is missing.
            DataError: they can be neither drawn nor kept.
        """
        shot = self._shot()
        key = clip_key(shot.image_hw)
        root = default_cache() if self.cache is None else Path(self.cache).absolute()
        order = ClipOrder(shot, str(root / key[:16] / self.task), key)
        return kept(order.file, order, lambda: read_clip(order.file, shows=order.shows))

    def _shot(self) -> Shot:
        return Shot(self.task, self.camera, self.length, self.seed, (self.height_px, self.width_px))
