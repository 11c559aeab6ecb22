"""The photos that a command line names: files, and folders of them."""

from __future__ import annotations

import glob
import logging
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from spaceclip_plugin.data.files.images import PHOTO_SUFFIXES, PhotoHeader, read_header
from spaceclip_plugin.errors import ConfigError, DataError

_logger = logging.getLogger(__name__)


def photos_in(places: Sequence[Path]) -> list[Path]:
    """Files as they are given, and the photos of every folder or pattern, `frame2` before `frame10`.

    Of a folder those are taken whose suffix is a photo's; hidden files and folders within it are not looked at, and
    what an earlier run wrote beside its photos is left out. Of a pattern that the shell left as it was (quoted, or on
    Windows) all files are taken.

    Raises:
        ConfigError: a pattern that no file matches, or a folder without photos or that cannot be listed.
    """
    photos: list[Path] = []
    for place in places:
        if place.is_dir():
            photos += _of_folder(place)
        elif not os.path.lexists(place) and glob.has_magic(str(place)):
            photos += _of_pattern(str(place))
        else:
            photos.append(place)
    return photos


def read_headers(photos: Iterable[Path]) -> tuple[dict[Path, PhotoHeader], dict[Path, str]]:
    """The headers of the photos that can be opened, and why the others cannot."""
    headers: dict[Path, PhotoHeader] = {}
    bad: dict[Path, str] = {}
    for photo in photos:
        try:
            headers[photo] = read_header(photo)
        except DataError as error:
            bad[photo] = str(error)
    return headers, bad


def _of_folder(folder: Path) -> list[Path]:
    try:
        entries = [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
    except OSError as error:
        raise ConfigError(f"cannot list {str(folder)!r} ({error.strerror}); check the folder's permissions") from error
    photos = [entry for entry in entries if entry.suffix.lower() in PHOTO_SUFFIXES and not entry.is_dir()]
    ours = _predictions(photos)
    photos = [photo for photo in photos if photo not in ours]
    taken = set(photos)
    left = _left_out([entry for entry in entries if entry not in taken], ours)
    if not photos:
        raise ConfigError(
            f"there is no photo in the folder {str(folder)!r}: expected files with the suffixes "
            f"{', '.join(sorted(PHOTO_SUFFIXES))}, found {left or 'nothing'}; folders in it are not searched"
        )
    if left:
        _logger.info("%s: %d photos are taken; left out: %s", folder, len(photos), left)
    return sorted(photos, key=_natural)


def _of_pattern(pattern: str) -> list[Path]:
    photos = [Path(match) for match in glob.glob(pattern) if os.path.isfile(match)]
    if not photos:
        raise ConfigError(f"no file is called as the pattern {pattern!r} says; check the folder and the suffix")
    return sorted(photos, key=_natural)


def _predictions(photos: Sequence[Path]) -> set[Path]:
    """Depth and picture of a photo, both beside it: what an earlier run wrote into the folder of its photos."""
    there = set(photos)
    pairs = [[photo.with_name(f"{photo.stem}_{kind}.png") for kind in ("depth", "picture")] for photo in photos]
    return {file for pair in pairs if there.issuperset(pair) for file in pair}


def _left_out(entries: Sequence[Path], ours: Iterable[Path]) -> str:
    """What is not taken, counted by kind: a photo of an unread format must not be missed in silence."""
    kinds = Counter(
        "folders"
        if entry.is_dir()
        else "files of an earlier run"
        if entry in ours
        else entry.suffix.lower() or "without suffix"
        for entry in entries
    )
    return ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))


def _natural(photo: Path) -> tuple[list[tuple[int, str]], str]:
    """Numbers in names by their value."""
    parts = re.findall(r"\d+|\D+", photo.name)
    return [(int(part), "") if part.isdecimal() else (-1, part.casefold()) for part in parts], photo.name
