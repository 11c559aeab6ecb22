"""What a process does while it is watched, as Python's audit events tell it.

An audit hook cannot be taken out again: watch in a process of its own.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

HARMLESS = frozenset({"object.__getattr__", "builtins.id", "sys._getframe", "gc.collect"})
"""Events that change nothing outside and run nothing."""

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class Watch:
    """Notes every event but the harmless ones, and every opened file but the expected ones, while it is `on`.

    Attributes:
        seen: what happened, for people.
    """

    def __init__(self) -> None:
        self.seen: list[str] = []
        self._on = False
        self._readable: frozenset[str] = frozenset()
        sys.addaudithook(self._notice)

    @contextmanager
    def on(self, readable: Iterator[str] | tuple[str, ...] = ()) -> Iterator[None]:
        """Watch while the block runs; the files that may be opened for reading are told."""
        self._readable, self._on = frozenset(readable), True
        try:
            yield
        finally:
            self._on = False

    def _notice(self, event: str, args: tuple[Any, ...]) -> None:
        if not self._on or event in HARMLESS:
            return
        self._on = False  # what is done here is no event
        if not (event == "open" and str(args[0]) in self._readable and not args[2] & _WRITING):
            self.seen.append(f"{event}{args!r}"[:200])
        self._on = True
