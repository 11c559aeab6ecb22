"""What is kept as a file is read; what is not, is drawn first."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from spaceclip_plugin.errors import CheckpointError, DataError
from spaceclip_worlds.metaworld.studio import AnyOrder, studio

T = TypeVar("T")

_log = logging.getLogger(__name__)


def kept(path: Path, order: AnyOrder, read: Callable[[], T]) -> T:
    """What `read` gives of a file.

    Args:
        path: of the file.
        order: draws it.
        read: reads it; a CheckpointError says that it is not whole.

    Raises:
        ConfigError: it has to be drawn, and Meta-World or OpenGL is missing.
        DataError: it can be neither drawn nor kept.
    """
    if path.exists():
        try:
            return read()
        except CheckpointError as error:
            _log.warning("%s; it is drawn again", error)
    studio().carry_out(order)
    try:
        return read()
    except CheckpointError as error:
        raise DataError(f"{error}, though it was drawn just now; check the disk of {str(path.parent)!r}") from error
