"""The folder beside an enriched data set while it is made: what is done, of which run, by one run at a time."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from spaceclip_plugin._files import is_temporary, read_json_object, sync_to_disk, write_json
from spaceclip_plugin.bridges.lerobot.annotation.channels import Channel
from spaceclip_plugin.bridges.lerobot.annotation.join import Parts, join
from spaceclip_plugin.bridges.lerobot.annotation.recording import Recording
from spaceclip_plugin.errors import ConfigError, DataError

RECORD_NAME = Path("meta/spaceclip_depth.json")
"""In an enriched data set: what its depth is and who predicted it."""

_WORK_SUFFIX = ".parts"
_RECORD, _LOCK, _WHOLE = "annotation.json", ".lock", "whole"
_SAID_ALONE = ("name", "data")  # how something was called; what it is, a digest says


class WorkFolder:
    """`OUT.parts`, with a folder for every episode that is done; it becomes `OUT` when all are.

    A lock that dies with its process keeps a second run off.
    """

    def __init__(self, out: Path) -> None:
        """Nothing is touched until it is opened."""
        self.out = out
        self.path = out.with_name(out.name + _WORK_SUFFIX)
        self._lock = FileLock(self.path / _LOCK)

    @contextlib.contextmanager
    def opened(self, record: Mapping[str, Any]) -> Iterator[bool]:
        """Claim the folder for this run, or take up what a run like it left; whether anything is left to be done.

        Raises:
            ConfigError: `OUT` or its parts are of another run, or another run is at work.
        """
        if self.out.exists() or self.out.is_symlink():
            self._check_same(self.out / RECORD_NAME, record)
            yield False
            return
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise ConfigError(
                f"another run is writing {str(self.out)!r}; wait until it is done, or choose another --out"
            ) from error
        except OSError as error:
            raise ConfigError(f"cannot make {str(self.path)!r} ({error.strerror}); choose another --out") from error
        try:
            if (self.path / _RECORD).exists():
                self._check_same(self.path / _RECORD, record)
            elif foreign := [entry.name for entry in self.path.iterdir() if entry.name != _LOCK]:
                raise ConfigError(
                    f"{str(self.path)!r} holds what no run of this command left ({foreign[0]}); move it away, or "
                    "choose another --out"
                )
            else:
                write_json(self.path / _RECORD, record)
            for entry in self.path.iterdir():
                if is_temporary(entry):
                    shutil.rmtree(entry, ignore_errors=True)
            yield True
        finally:
            self._lock.release()

    def folder(self, episode: int) -> Path:
        """Of the depth of an episode, whole where it is there."""
        return self.path / f"episode-{episode:06d}"

    def missing(self, episodes: int) -> list[int]:
        """The numbers of the episodes that are not done."""
        return [episode for episode in range(episodes) if not self.folder(episode).is_dir()]

    def finish(
        self, recording: Recording, channels: Sequence[Channel], files: Mapping[Path, Mapping[str, object]]
    ) -> None:
        """Make `OUT` of the source, the depth of all episodes, and these JSON files; the parts go when it is whole."""
        whole = self.path / _WHOLE
        shutil.rmtree(whole, ignore_errors=True)
        whole.mkdir()
        try:
            folders = [self.folder(episode) for episode in range(len(recording.lengths))]
            join(recording, Parts(folders, channels), whole)
            for name, content in files.items():
                (whole / name).parent.mkdir(parents=True, exist_ok=True)
                write_json(whole / name, content)
            for entry in (*whole.rglob("*"), whole):
                sync_to_disk(entry)
        except OSError as error:
            shutil.rmtree(whole, ignore_errors=True)
            raise DataError(
                f"{str(self.out)!r} cannot be written ({error}); the depth of all episodes is kept in "
                f"{str(self.path)!r}: free disk space, then run the same command again"
            ) from error
        whole.rename(self.out)
        sync_to_disk(self.out.parent)
        shutil.rmtree(self.path, ignore_errors=True)

    def _check_same(self, path: Path, record: Mapping[str, Any]) -> None:
        if not path.is_file():
            raise ConfigError(f"{str(self.out)!r} is there already, and not an enriched data set; choose another --out")
        before, now = _flat(read_json_object(path)), _flat(record)
        other = [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]
        other = [name for name in other if name.rpartition(".")[2] not in _SAID_ALONE]
        if other:
            raise ConfigError(
                f"{str(path)!r} is of another run: {', '.join(other)} differ(s), as {before.get(other[0])!r} and "
                f"{now.get(other[0])!r}; give the same head, host, data and settings to go on with it, or choose "
                "another --out"
            )


def _flat(record: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """The values of a record by their dotted names."""
    flat: dict[str, Any] = {}
    for name, value in record.items():
        if isinstance(value, Mapping):
            flat.update(_flat(value, f"{before}{name}."))
        else:
            flat[f"{before}{name}"] = value
    return flat
