"""Whether data is named like a test set, on which no epoch shall be chosen.
A name proves nothing, neither way; it catches the usual slip, `nyudepthv2_test_files.txt` given as validation data."""

from __future__ import annotations

import re
from pathlib import PurePath

from spaceclip_plugin.data import SourceSpec

_WORDS = {"test", "testing", "testset"}
_FOLDERS = ("root", "images", "depth")


def named_like_a_test_set(spec: SourceSpec) -> bool:
    """Whether "test" or "testing" is a word of the data's own name, or the last one of a folder's that it lies in.
    "eigen_test.txt" and "testing/list.txt" are, "latest.txt" and "test_bench/list.txt" are not."""
    path = PurePath(str(getattr(spec, "path", "")))
    folders = [path.parent.name]
    for name in _FOLDERS:
        folders += PurePath(getattr(spec, name, None) or "").parts[-2:]
    words = {*_words(spec.title), *_words(path.name)}
    words.update(word for folder in folders for word in _words(folder)[-1:])
    return not words.isdisjoint(_WORDS)


def _words(name: str) -> list[str]:
    """Lower-case words of a name: "nyuEigen_test654.txt" has nyu, eigen, test and txt."""
    return [word.lower() for word in re.findall("[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)]
