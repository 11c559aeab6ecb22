"""A clip that is wanted as a file: filmed once, by whichever process comes first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typing_extensions import Self

from spaceclip_plugin.errors import CheckpointError
from spaceclip_worlds.metaworld.clip_file import read_clip, write_clip
from spaceclip_worlds.metaworld.film import Shot, film
from spaceclip_worlds.metaworld.order import clear, drawing_into


@dataclass(frozen=True)
class ClipOrder:
    """What to film, and where the file goes.

    Attributes:
        folder: of the clips of that task and size.
        key: what decides the content of all files there, beside the shot.
    """

    shot: Shot
    folder: str
    key: str

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> Self:
        """From its fields as JSON knows them."""
        shot = fields["shot"]
        return cls(Shot(**{**shot, "image_hw": tuple(shot["image_hw"])}), fields["folder"], fields["key"])

    def __str__(self) -> str:
        return str(self.shot)

    @property
    def file(self) -> Path:
        """The clip's file."""
        return Path(self.folder) / f"{self.shot.camera}-{self.shot.length}-{self.shot.seed}.safetensors"

    @property
    def shows(self) -> str:
        """What that file says it shows."""
        return f"{self.key} {self.shot}"

    def carry_out(self) -> None:
        """Film it unless it is there whole; of several processes that want it, one films and the others wait.

        Raises:
            ConfigError: there is nothing to draw with, or no folder can be made.
            DataError: the file cannot be written.
        """
        with drawing_into(Path(self.folder)) as folder:
            if self._is_there():
                return
            clear(folder)
            write_clip(self.file, list(film(self.shot)), shows=self.shows)

    def _is_there(self) -> bool:
        try:
            read_clip(self.file, shows=self.shows)
        except CheckpointError:
            return False
        return True
