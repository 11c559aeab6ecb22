"""What a command has to say: text for people, the same as data for programs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Result:
    """A command's output.

    Attributes:
        text: for people, without a final newline.
        data: for `--json`; finite numbers, strings, lists and objects.
        failure: what could not be done beside what was, for standard error; the exit code is then 1. None: all was.
    """

    text: str
    data: dict[str, Any]
    failure: str | None = None
