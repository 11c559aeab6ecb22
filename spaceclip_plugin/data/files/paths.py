"""Files as people mean them: accents in names however they are written, and what a file really is that is no image."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

from spaceclip_plugin.errors import DataError

_HEAD_BYTES = 512
_LFS = b"version https://git-lfs.github.com/spec/"
_ENDS = ((b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"), (b"\xff\xd8\xff", b"\xff\xd9"))
_OTHER_KINDS = (
    (b"PK\x03\x04", "it is a zip archive (or .npz): unpack it, or give it its right suffix"),
    (b"\x1f\x8b", "it is compressed with gzip: unpack it"),
    (b"\x89HDF", "it is an HDF5 file: save each depth map as .npy in metres"),
    (b"v/1\x01", "it is OpenEXR: save its depth as .npy in metres"),
    (b"\x93NUMPY", "it is a NumPy array: name it .npy"),
)


def composed(name: str) -> str:
    """The name in Unicode's composed form (NFC): an accent may be a character of its own (NFD, macOS) or not."""
    return unicodedata.normalize("NFC", name)


def existing(path: Path) -> Path:
    """The path as the disk spells it, if one name there differs only in how accents are written; else the path."""
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


def must_exist(path: Path, expected: str) -> None:
    """Raise DataError, naming the file and what it should be, if there is none."""
    if not path.is_file():
        raise DataError(f"{path}: no such file, expected {expected}; {missing(path)}")


def missing(path: Path) -> str:
    """What to do about a file that is not there, as the end of a message."""
    if path.is_dir():
        return "it is a folder"
    if path.is_symlink():
        return f"it is a link to {os.readlink(path)}, which is absent (git-annex: `git annex get`)"
    return "check the path and the folder it is relative to"


def next_step(path: Path) -> str:
    """What to do about a file whose content cannot be used, as the end of a message."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
            file.seek(max(0, size - 16))
            tail = file.read(16)
    except OSError:
        return "copy or export the file again"
    if size == 0:
        return "the file is empty: copy or export it again"
    if head.startswith(_LFS):
        return "it is a Git LFS pointer, not the file itself: run `git lfs pull` where it was cloned"
    if head.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        return "it is a web page, perhaps the error of a download: download the file again"
    if any(head.startswith(magic) and end not in tail for magic, end in _ENDS):
        return f"it is cut short after {size} bytes: compare with the original's size, and copy it again"
    for magic, advice in _OTHER_KINDS:
        if head.startswith(magic):
            return advice
    return f"copy or export the file again (it has {size} bytes here; is that all of it?)"
