"""What a file that cannot be read really is, and what to do about it: a Git LFS pointer, a cut download, a web page."""

from __future__ import annotations

import os
from pathlib import Path

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


def next_step(path: str | os.PathLike[str]) -> str:
    """What to do about a file whose content cannot be used, as the end of a message."""
    try:
        size = os.path.getsize(path)
        with open(path, "rb") as file:
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
    for magic, end in _ENDS:
        if head.startswith(magic) and end not in tail:
            return f"it is cut short after {size} bytes: compare with the original's size, and copy it again"
    for magic, advice in _OTHER_KINDS:
        if head.startswith(magic):
            return advice
    return f"copy or export the file again (it has {size} bytes here; is that all of it?)"


def missing(path: str | os.PathLike[str]) -> str:
    """What to do about a file that is not there, as the end of a message."""
    if Path(path).is_dir():
        return "it is a folder"
    if os.path.islink(path):
        return f"it is a link to {os.readlink(path)}, which is absent (git-annex: `git annex get`)"
    return "check the path and the folder it is relative to"
