"""Ctrl-C and a scheduler's SIGTERM, taken between two steps instead of in the middle of one."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interruption:
    """Whether someone has asked the run to stop: `asked` is true from the first signal on."""

    def __init__(self) -> None:
        self.asked = False

    def ask(self, number: int, _: FrameType | None) -> None:
        """The first signal asks; a second one interrupts at once."""
        if self.asked:
            raise KeyboardInterrupt(f"signal {number}")
        self.asked = True


@contextmanager
def watched() -> Iterator[Interruption]:
    """Notice SIGINT and SIGTERM within the block, and leave the handlers as they were after it.
    Outside the main thread no handler can be set: signals then do what they always do."""
    interruption = Interruption()
    if not in_main_thread():
        yield interruption
        return
    before = {number: signal.signal(number, interruption.ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield interruption
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def in_main_thread() -> bool:
    """Elsewhere no handler of signals can be set."""
    return threading.current_thread() is threading.main_thread()
