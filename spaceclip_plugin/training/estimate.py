"""How long a run will take, told from its first steps."""

from __future__ import annotations

import logging
import time

WARM_UP, TIMED = 2, 5
"""Steps that are not timed, for they also allocate and compile, and steps that are."""

_logger = logging.getLogger(__name__)


class StepClock:
    """Is told of every step, and says once, in the log, how long those that are left will take."""

    def __init__(self, steps: int, *, quiet: bool) -> None:
        """For so many steps; quiet: nothing is said."""
        self._left = steps
        self._quiet = quiet
        self._done = 0
        self._started = 0.0

    def step(self) -> None:
        """A step is done."""
        self._done += 1
        if self._done == WARM_UP:
            self._started = time.perf_counter()
        elif self._done == WARM_UP + TIMED and not self._quiet:
            seconds = (time.perf_counter() - self._started) / TIMED
            left = self._left - self._done
            _logger.info(
                "%d steps are left at %.2g s each: about %s, and validation after every epoch",
                left, seconds, duration(left * seconds),
            )  # fmt: skip


def duration(seconds: float) -> str:
    """A time for people, in its largest unit: "40 s", "12 min", "3.5 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
