"""An episode that is wanted as files: drawn once, by whichever process comes first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock
from safetensors import SafetensorError
from typing_extensions import Self

from spaceclip_plugin._files import is_temporary
from spaceclip_plugin.errors import CheckpointError, DataError
from spaceclip_worlds.metaworld.easel import draw_episode
from spaceclip_worlds.metaworld.episode import FRAMES, Episode, Picture
from spaceclip_worlds.metaworld.frame import read_frame, write_frame


@dataclass(frozen=True)
class Order:
    """What to draw, and where the files go.

    Attributes:
        folder: of the task's files.
        key: what decides the content of all files there, beside the episode.
    """

    episode: Episode
    picture: Picture
    folder: str
    key: str

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> Self:
        """From its fields as JSON knows them."""
        picture = fields["picture"]
        height, width = picture["image_hw"]
        what = Picture((height, width), tuple(picture["cameras"]), picture["look"])
        return cls(Episode(**fields["episode"]), what, fields["folder"], fields["key"])

    def __str__(self) -> str:
        return str(self.episode)

    def file(self, number: int) -> Path:
        """The file of one of the episode's frames."""
        return Path(self.folder) / f"{self.episode.visit:06d}-{number}.safetensors"

    def shows(self, number: int) -> str:
        """What that file says it shows."""
        return f"{self.key} {self.episode} frame {number}"

    def carry_out(self) -> None:
        """Draw the frames that are not there whole; of several processes that want them, one draws and the others wait.

        Raises:
            ConfigError: there is nothing to draw with, or no folder can be made.
            DataError: the files cannot be written.
        """
        with drawing_into(Path(self.folder)) as folder:
            if all(self._is_there(number) for number in range(FRAMES)):
                return
            clear(folder)
            for number, frame in enumerate(draw_episode(self.episode, self.picture)):
                write_frame(self.file(number), frame, shows=self.shows(number))

    def _is_there(self, number: int) -> bool:
        try:
            read_frame(self.file(number), shows=self.shows(number))
        except CheckpointError:
            return False
        return True


@contextmanager
def drawing_into(folder: Path) -> Iterator[Path]:
    """Be the only process that draws into a folder, which is made.

    Raises:
        ConfigError: it cannot be made.
        DataError: files cannot be written there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock"):
            yield folder
    except (OSError, SafetensorError) as error:
        raise DataError(
            f"cannot keep drawn images in {str(folder)!r}: {error}; free disk space, or name another folder: "
            "cache: in a config, or the environment variable XDG_CACHE_HOME"
        ) from error


def clear(folder: Path) -> None:
    """Remove what a killed process left behind of the files it was writing."""
    for left in filter(is_temporary, folder.iterdir()):
        left.unlink()
