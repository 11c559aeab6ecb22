"""What a command gives: what it says, and the files it is about to write, which replace none unless told to."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spaceclip_plugin.errors import ConfigError

_MAX_NAMED = 3


@dataclass(frozen=True)
class Result:
    """What a command says."""

    text: str  # for people, without a final newline
    data: dict[str, Any]  # for `--json`; finite numbers, strings, lists and objects
    failure: str | None = None  # what could not be done beside what was, for standard error; the exit code is then 1


def check_free(files: Sequence[Path], *, overwrite: bool) -> None:
    """Check, before any work, that writing these files loses nothing.
    A link counts as what is there, wherever it leads; with `overwrite` links are replaced, too, not their targets."""
    for file in files:
        if os.path.isdir(file):  # not Path.is_dir(), which raises on a name too long for the disk
            raise ConfigError(f"cannot write {str(file)!r}: it is a folder; give the path of a file")
        ancestor = next((folder for folder in file.parents if os.path.lexists(folder)), None)
        if ancestor is not None and not os.path.isdir(ancestor):
            raise ConfigError(f"cannot write {str(file)!r}: {str(ancestor)!r} is no folder; choose another place")
    taken = [str(file) for file in files if os.path.lexists(file)]
    if taken and not overwrite:
        more = f" and {len(taken) - _MAX_NAMED} more" if len(taken) > _MAX_NAMED else ""
        raise ConfigError(
            f"{', '.join(map(repr, taken[:_MAX_NAMED]))}{more} would be replaced, and nothing was written: choose "
            "another --out or name, move what is there away, or give --overwrite"
        )


def check_apart(files: Mapping[Path, str], *, inputs: Iterable[Path]) -> None:
    """Check that no two files are one, and that none is an input, whatever links and the letters' case make of names.
    `files` are paths with what is written there; an input is never replaced, not even when told to replace."""
    read = {_identity(path) for path in inputs}
    seen: dict[object, str] = {}
    for file, what in files.items():
        identity = _identity(file)
        if identity in read:
            raise ConfigError(f"{file} is read by this command and would be overwritten; choose another name or --out")
        if identity in seen:
            raise ConfigError(f"{file} would be written twice, for {seen[identity]} and for {what}; do them separately")
        seen[identity] = what


def files_of_head(head: str | Path) -> list[Path]:
    """What is read of a head's folder, or of the head in a run's."""
    folders = (Path(head), Path(head) / "head")
    return [folder / name for folder in folders for name in ("config.json", "model.safetensors")]


def _identity(path: Path) -> tuple[str, str]:
    """Equal for two paths of one file: links followed, and of the name what file systems that ignore case keep."""
    try:
        resolved = path.resolve()
    except (OSError, RuntimeError):  # a circle of links
        resolved = path.absolute()
    return _folded(str(resolved.parent)), _folded(resolved.name)


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()
