"""An episode that is wanted as files: drawn once, by whichever process comes first."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock
from safetensors import SafetensorError

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
        folder = Path(self.folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with FileLock(folder / ".lock"):
                if all(self._is_there(number) for number in range(FRAMES)):
                    return
                for left in filter(is_temporary, folder.iterdir()):  # of a killed process
                    left.unlink()
                for number, frame in enumerate(draw_episode(self.episode, self.picture)):
                    write_frame(self.file(number), frame, shows=self.shows(number))
        except (OSError, SafetensorError) as error:
            raise DataError(
                f"cannot keep drawn images in {self.folder!r}: {error}; free disk space, or name another folder: "
                "cache: in a config, or the environment variable XDG_CACHE_HOME"
            ) from error

    def _is_there(self, number: int) -> bool:
        try:
            read_frame(self.file(number), shows=self.shows(number))
        except CheckpointError:
            return False
        return True
