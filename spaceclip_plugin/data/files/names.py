"""File names that are the same to people: an accent may be a character of its own (NFD, macOS) or not (NFC)."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path


def composed(name: str) -> str:
    """The name in Unicode's composed form (NFC), for comparison."""
    return unicodedata.normalize("NFC", name)


def existing(path: Path) -> Path:
    """The path as it is spelt on the disk, where it differs from what is there only in how accents are written.

    The path itself where it exists, where nothing matches, or where two names match and neither is spelt so.
    """
    if os.path.exists(path) or str(path).isascii():
        return path
    folder = path.parent if path.parent.exists() else existing(path.parent)
    if path.name.isascii():  # most names that are missing: no need to look through the folder
        return folder / path.name
    try:
        names = os.listdir(folder)
    except OSError:
        return path
    matching = [name for name in names if composed(name) == composed(path.name)]
    return folder / matching[0] if len(matching) == 1 else path
