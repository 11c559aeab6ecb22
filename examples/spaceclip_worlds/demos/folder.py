"""The folder of a demo: what an earlier demo wrote there is replaced, and nothing else."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from spaceclip_plugin._files import read_json_object
from spaceclip_plugin.errors import CheckpointError, ConfigError

RECORD_NAME = "metrics.json"
WRITTEN = "written"
"""Key of the record that tells what the demo wrote: the SHA-256 of each file by its name."""


def check_demo_folder(out: Path, names: Iterable[str], *, overwrite: bool) -> None:
    """Check, before any work, that files of these names and the record may be written to a folder.

    Args:
        out: the folder; it may be absent.
        names: of the files.
        overwrite: replace what is there, whoever wrote it.

    Raises:
        ConfigError: without `overwrite`, something there is not as an earlier demo left it; or a folder is in the way.
    """
    if os.path.lexists(out) and not os.path.isdir(out):
        raise ConfigError(f"cannot write a demo to {str(out)!r}: it is no folder; choose another --out")
    there = [out / name for name in (*names, RECORD_NAME) if os.path.lexists(out / name)]
    folders = [path for path in there if os.path.isdir(path)]
    written = _written(out / RECORD_NAME)
    foreign = [path for path in there if not _is_as_written(path, written)]
    if folders or (foreign and not overwrite):
        raise ConfigError(
            f"{str((folders or foreign)[0])!r} is not as an earlier demo left it, and is not replaced; nothing was "
            "touched: choose another --out, move it away, or give --overwrite"
        )


def digests(files: Iterable[Path]) -> dict[str, str]:
    """The SHA-256 (hex) of each file by its name, for the record."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _written(record: Path) -> Mapping[str, object] | None:
    """What the record says was written; None where there is none of a demo."""
    try:
        written = read_json_object(record).get(WRITTEN)
    except CheckpointError:
        return None
    return written if isinstance(written, dict) else None


def _is_as_written(path: Path, written: Mapping[str, object] | None) -> bool:
    if written is None or path.is_symlink() or not path.is_file():
        return False
    return path.name == RECORD_NAME or digests([path])[path.name] == written.get(path.name)
