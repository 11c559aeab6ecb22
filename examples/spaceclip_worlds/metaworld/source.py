"""Meta-World as a source of RGB-D samples: drawn once, kept on disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from spaceclip_plugin._digest import sha256_of
from spaceclip_plugin.data import DepthSample
from spaceclip_worlds.metaworld.cameras import Pose
from spaceclip_worlds.metaworld.episode import FRAMES, Picture, episode_of
from spaceclip_worlds.metaworld.frame import Frame, read_frame
from spaceclip_worlds.metaworld.kept import kept
from spaceclip_worlds.metaworld.key import picture_key
from spaceclip_worlds.metaworld.order import Order


@dataclass(frozen=True)
class MetaWorldScenes:
    """A `DepthSource` of pictures of Meta-World.

    Picture i depends on seed, split, tasks, picture and i alone. It is drawn when it is first asked for, together with
    the others of its episode, and read from its file from then on; in the order of their numbers, pictures cost least.
    Several processes may read one source, and share its files.

    Attributes:
        count: how many pictures.
        seed: different seeds share no episode.
        split: one of `SPLITS`; nor do different splits share one.
        tasks: names of tasks of the split.
        picture: what all pictures have in common.
        folder: where the files are kept, absolute.
        exact_depth: it is, at every pixel.
    """

    exact_depth: ClassVar[bool] = True
    count: int
    seed: int
    split: str
    tasks: tuple[str, ...]
    picture: Picture
    folder: Path

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> DepthSample:
        """Picture `index`.

        Raises:
            IndexError: not in 0 ... count - 1.
            ConfigError: it has to be drawn, and Meta-World or OpenGL is missing.
            DataError: it can be neither drawn nor kept.
        """
        order, number = self._place(index)
        frame = self.frame(index)
        return DepthSample(frame.image, frame.depth_m, f"metaworld {order.episode} frame {number}", frame.intrinsics)

    def frame(self, index: int) -> Frame:
        """Picture `index` with its camera; errors as for indexing."""
        order, number = self._place(index)
        path, shows = order.file(number), order.shows(number)
        return kept(path, order, lambda: read_frame(path, shows=shows))

    def pose(self, index: int) -> Pose:
        """Where the camera of picture `index` stands: (4, 4) camera to world in metres, camera axes x right, y down,
        z forward (OpenCV); errors as for indexing."""
        return self.frame(index).camera_to_world

    def fingerprint(self, index: int) -> str:
        """Of what decides the picture: nothing is drawn for it."""
        order, number = self._place(index)
        shows = order.shows(number)
        return sha256_of("image ", shows) + sha256_of("depth ", shows)

    def named_with(self, seed: int) -> str:
        """How a command line and a config name as many pictures of another seed."""
        named = f"metaworld:{self.split}:{self.picture.look}:{self.count}:{seed}"
        return f"{named} on the command line, or seed: {seed} in a config"

    def _place(self, index: int) -> tuple[Order, int]:
        """The order of the episode that a picture belongs to, and its number in that."""
        if not 0 <= index < self.count:
            raise IndexError(f"picture {index} of {self.count}; pictures are counted from 0")
        episode = episode_of(index, seed=self.seed, split=self.split, tasks=self.tasks)
        key = picture_key(self.picture)
        folder = self.folder / key[:16] / f"{self.split}-{self.seed}" / episode.task
        return Order(episode, self.picture, str(folder), key), index % FRAMES
