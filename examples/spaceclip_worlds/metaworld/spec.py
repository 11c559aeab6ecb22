"""Meta-World as a config or a command line names it: `metaworld:[SPLIT:][LOOK:]COUNT[:SEED]`."""

from __future__ import annotations

import dataclasses
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from typing_extensions import Self

from spaceclip_plugin._checks import choice, shown, text, whole
from spaceclip_plugin.data.sources.spec import absolute, checked_path
from spaceclip_plugin.errors import ConfigError, nearest
from spaceclip_worlds.metaworld.cameras import CAMERAS
from spaceclip_worlds.metaworld.episode import LOOKS, VARIED, Picture
from spaceclip_worlds.metaworld.key import versions
from spaceclip_worlds.metaworld.source import MetaWorldScenes
from spaceclip_worlds.metaworld.tasks import SPLITS, TRAIN

_MAX = 10**9
_SIDE_PX = (8, 2048)
_TEXT = re.compile(
    rf"(?:(?P<split>{'|'.join(SPLITS)}):)?(?:(?P<look>{'|'.join(LOOKS)}):)?"
    r"(?P<count>[0-9]{1,10})(?::(?P<seed>[0-9]{1,10}))?"
)
_LONGEST = 2000


@dataclass(frozen=True)
class MetaWorldData:
    """Pictures of Meta-World's tasks; see `MetaWorldScenes`.

    Attributes:
        count: how many.
        seed: different seeds share no episode.
        split: "train" and "validation" show 40 tasks, each in episodes of its own; "test" shows the 10 others.
        tasks: some of the split's, as "door-open-v3, drawer-open-v3"; None is all of them.
        cameras: one or several of Meta-World's, as "corner2, corner"; every picture has one of them.
        look: "varied" (surfaces, colours, lights, and where the camera stands and its lens); "standard", which is what
            a policy sees; or "moved", the same with the camera mounted anew and often nearer, things beside their
            places and above the table, and more marks in the air.
        height_px, width_px: size of image and depth.
        cache: folder that drawn pictures are kept in; None is spaceclip/metaworld in XDG_CACHE_HOME, or in ~/.cache.

    Raises:
        ConfigError: a value that cannot be.

    Example:
        >>> MetaWorldData.from_text("test:90").title
        'metaworld test (90)'
    """

    kind: ClassVar[str] = "metaworld"
    count: int
    seed: int = 0
    split: str = TRAIN
    tasks: str | None = None
    cameras: str = "corner2"
    look: str = VARIED
    height_px: int = 224
    width_px: int = 224
    cache: str | None = None

    def __post_init__(self) -> None:
        whole("count of metaworld", self.count, 1, _MAX)
        whole("seed of metaworld", self.seed, 0, _MAX)
        choice("split of metaworld", self.split, SPLITS)
        choice("look of metaworld", self.look, LOOKS)
        self._tasks()
        self._cameras()
        whole("height_px of metaworld", self.height_px, *_SIDE_PX)
        whole("width_px of metaworld", self.width_px, *_SIDE_PX)
        if self.cache is not None:
            checked_path("cache of metaworld", self.cache)

    @classmethod
    def from_text(cls, text: str) -> Self:
        """From "COUNT", with the seed after it and split, look or both before it, as in "test:standard:120:7".

        Raises:
            ConfigError: anything else.
        """
        found = _TEXT.fullmatch(text)
        if found is None:
            first = text.partition(":")[0]
            raise ConfigError(
                "expected [SPLIT:][LOOK:]COUNT[:SEED] after 'metaworld:', such as metaworld:1200 or "
                f"metaworld:test:standard:90, where SPLIT is {', '.join(SPLITS)} and LOOK is {', '.join(LOOKS)}"
                f"{nearest(first, (*SPLITS, *LOOKS))}; got {shown(text)}"
            )
        split, look = found["split"] or TRAIN, found["look"] or VARIED
        return cls(int(found["count"]), seed=int(found["seed"] or 0), split=split, look=look)

    @property
    def title(self) -> str:
        """The split, the look where it is not "varied", how many there are, and the seed where it is not 0."""
        look = "" if self.look == VARIED else f" {self.look}"
        seed = f", seed {self.seed}" if self.seed else ""
        return f"metaworld {self.split}{look} ({self.count}{seed})"

    def resolved(self, base: Path) -> Self:
        """With `cache`, where it is named, made absolute."""
        if self.cache is None or os.path.isabs(self.cache):
            return self
        return dataclasses.replace(self, cache=absolute(self.cache, base))

    def open(self, *, units_per_metre: float, skip_bad: bool = False) -> MetaWorldScenes:
        """The pictures, which are drawn when they are read; they are in metres and none is bad.

        Raises:
            ConfigError: Meta-World is not installed.
        """
        versions()  # refuses where something is missing, before the first picture is wanted
        picture = Picture((self.height_px, self.width_px), self._cameras(), self.look)
        folder = Path(self.cache).absolute() if self.cache is not None else default_cache()
        return MetaWorldScenes(self.count, self.seed, self.split, self._tasks(), picture, folder)

    def _tasks(self) -> tuple[str, ...]:
        known = SPLITS[self.split]
        if self.tasks is None:
            return known
        named = _names("tasks of metaworld", self.tasks)
        for name in named:
            others = [split for split, tasks in SPLITS.items() if name in tasks]
            if name not in known:
                elsewhere = f"; it is a task of split: {others[0]}" if others else nearest(name, known)
                raise ConfigError(f"tasks of metaworld: {shown(name)} is none of split {self.split}{elsewhere}")
        return named

    def _cameras(self) -> tuple[str, ...]:
        field = "cameras of metaworld"
        return tuple(choice(field, name, CAMERAS) for name in _names(field, self.cameras))


def default_cache() -> Path:
    """Where drawn pictures are kept unless a config says where."""
    cache = os.environ.get("XDG_CACHE_HOME", "")
    # By the specification a relative path there is to be ignored.
    root = Path(cache) if os.path.isabs(cache) else Path.home() / ".cache"
    return root / "spaceclip" / "metaworld"


def _names(field: str, value: object) -> tuple[str, ...]:
    """Names between commas, each once."""
    names = tuple(name.strip() for name in text(field, value, max_length=_LONGEST).split(","))
    if len(set(names)) < len(names):
        raise ConfigError(f"{field} must name each once, got {shown(value)}")
    return names
