"""The heads in this folder by name: "embedded:NAME", wherever a head is named."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from spaceclip_plugin._checks import shown
from spaceclip_plugin._files import read_json_object
from spaceclip_plugin.errors import CheckpointError, nearest

PREFIX = "embedded:"
FOLDER = Path(__file__).parent
RECORD_NAME = "record.json"  # of the run that trained a head: command, data, recipe, scores, digests, terms
MAX_BYTES = 2_000_000  # of all embedded heads together: everyone who installs the package takes them along

_NAME = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*", re.ASCII)


def is_embedded(name: object) -> bool:
    """Whether a head that is named so is meant to be one of these; a folder that is called so is "./embedded:NAME"."""
    return isinstance(name, str) and name.startswith(PREFIX)


def is_name(name: str) -> bool:
    """Whether a head may be called that: lower-case words and numbers with hyphens between."""
    return _NAME.fullmatch(name) is not None


def names() -> list[str]:
    """Of all embedded heads, in alphabetical order."""
    return sorted(entry.name for entry in FOLDER.iterdir() if is_name(entry.name) and entry.is_dir())


def folder_of(head: str) -> Path:
    """The folder of the head that is called "embedded:NAME"; CheckpointError where none is."""
    name, known = head.removeprefix(PREFIX), names()
    if name not in known:
        listed = f"embedded are {', '.join(known)}" if known else "no head is embedded in this version of the package"
        raise CheckpointError(
            f"there is no head {PREFIX}{shown(name)[1:-1]}{nearest(name, known)}: {listed}; or give the folder of a "
            "head, or the id of a Hub repository (org/name)"
        )
    return FOLDER / name


def read_record(name: str) -> dict[str, Any]:
    """What is known of an embedded head beside its config."""
    return read_json_object(folder_of(name) / RECORD_NAME)
