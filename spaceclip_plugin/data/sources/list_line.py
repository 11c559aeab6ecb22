"""The words of one line of a list, and names with spaces in them."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

_WORD = re.compile(r"""\s*(?:"([^"]*)"(?=\s|$)|'([^']*)'(?=\s|$)|(\S+))""")
_MAX_NAMES = 12


def words_of(text: str, is_file: Callable[[str], bool]) -> list[str]:
    """The words of a line, some in quotes, up to a word that starts with `#`; or what its tabs separate.

    Tabs do where nothing is quoted and the first two of two or three parts are files, a space in the name of either.
    """
    found: list[tuple[str, bool]] = []
    for match in _WORD.finditer(text):
        double, single, bare = match.groups()
        if bare is not None and bare.startswith("#"):
            break
        found.append((next(word for word in (double, single, bare) if word is not None), bare is None))
    words = [word for word, _ in found]
    parts = [part.strip() for part in text.split("\t") if part.strip()]
    if any(quoted for _, quoted in found) or len(parts) not in (2, 3) or words == parts:
        return words
    spaced = any(" " in part for part in parts[:2])
    return parts if spaced and all(is_file(part) for part in parts[:2]) else words


def joined_names(words: Sequence[str], is_file: Callable[[str], bool]) -> list[str] | None:
    """The names, quoted as a line needs them, that words are parts of if names of files hold single spaces.

    None where no way of joining them gives one or two files, or where none is joined of several words.
    """
    if not 2 <= len(words) <= _MAX_NAMES:
        return None
    for end in range(1, len(words) + 1):
        rgb = " ".join(words[:end])
        if not is_file(rgb):
            continue
        for stop in range(len(words), end, -1):
            depth = " ".join(words[end:stop])
            if is_file(depth) and stop > 2 and len(words) - stop <= 1:
                return [_quoted(rgb), _quoted(depth), *words[stop:]]
        if end > 1:
            return [_quoted(rgb), *words[end:]]
    return None


def _quoted(name: str) -> str:
    return f'"{name}"' if " " in name else name
