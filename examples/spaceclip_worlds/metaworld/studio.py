"""A process of its own that draws: OpenGL does not survive the fork of a data loader, and Mesa's LLVM and Triton's do
not agree within one process. One line of JSON gives an order, one line answers; what is drawn goes to files.
"""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import IO, TypeAlias, cast

from spaceclip_plugin._checks import shown
from spaceclip_plugin.errors import ConfigError, DataError
from spaceclip_worlds.metaworld.clip_order import ClipOrder
from spaceclip_worlds.metaworld.order import Order

AnyOrder: TypeAlias = Order | ClipOrder

_ORDERS: dict[str, type[AnyOrder]] = {kind.__name__: kind for kind in (Order, ClipOrder)}

_ERRORS = {"ConfigError": ConfigError, "DataError": DataError}


class Studio:
    """The drawing process of this process, started when it is first asked."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._drawer: _Drawer | None = None

    def carry_out(self, order: AnyOrder) -> None:
        """Have an order carried out, and wait for it.

        Raises:
            ConfigError: see the order's `carry_out`.
            DataError: see there; or the process died of the order.
        """
        with self._lock:
            if self._drawer is not None and not self._drawer.lives():  # whoever frees memory may end what is idle
                self.close()
            if self._drawer is None:
                self._drawer = _Drawer()
            answer, said = None, ""
            try:
                answer = self._drawer.answer(json.dumps([type(order).__name__, dataclasses.asdict(order)]))
            finally:
                if answer is None:  # it died, or whoever waited was interrupted: the next answer would be to this
                    said = self._drawer.said()
                    self.close()
        if answer is None:
            raise DataError(f"{order}: the process that draws it died, saying {shown(said)}; try again")
        kind, message = json.loads(answer)
        if kind is not None:
            raise _ERRORS[kind](message)

    def close(self) -> None:
        """End the process; it is started again when it is next asked."""
        if self._drawer is not None:
            self._drawer.close()
            self._drawer = None


class _Drawer:
    """A process that runs `main`, in an empty folder: MuJoCo writes a log wherever it runs."""

    def __init__(self) -> None:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        if sys.platform == "linux":
            environment.setdefault("MUJOCO_GL", "egl")  # what it draws is not for a screen
        self._room = tempfile.TemporaryDirectory(prefix="spaceclip-metaworld-")
        self._log = Path(self._room.name) / "stderr"
        with self._log.open("wb") as stderr:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "spaceclip_worlds.metaworld.studio"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                cwd=self._room.name,
                env=environment,
                text=True,
                start_new_session=True,  # Ctrl-C is for the process that asks
            )
        self._questions, self._answers = cast(IO[str], self._process.stdin), cast(IO[str], self._process.stdout)

    def lives(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def answer(self, question: str) -> str | None:
        """Its answer; None if it died."""
        try:
            self._questions.write(question + "\n")
            self._questions.flush()
        except BrokenPipeError:
            return None
        return self._answers.readline() or None

    def said(self) -> str:
        """The last line that it wrote to standard error."""
        return self._log.read_text(errors="replace").strip().rpartition("\n")[2]

    def close(self) -> None:
        """End it, whatever it does: files are whole or absent at any time."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._questions, self._answers):
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
        self._room.cleanup()


_studios: dict[int, Studio] = {}


def studio() -> Studio:
    """The studio of this process: a forked one does not write into its parent's."""
    found = _studios.get(os.getpid())
    if found is None:
        found = _studios.setdefault(os.getpid(), Studio())
        atexit.register(found.close)
    return found


def main() -> None:
    """Carry out what is read until there is no more to read."""
    # Whatever else writes to standard output must not come between the answers.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    for line in sys.stdin:
        kind, fields = json.loads(line)
        answers.write(json.dumps(_answer(_ORDERS[kind].of(fields))) + "\n")
        answers.flush()


def _answer(order: AnyOrder) -> tuple[str | None, str]:
    """Kind and message of the error that carrying out an order ended in, (None, "") where it ended well."""
    try:
        order.carry_out()
    except (ConfigError, DataError) as error:
        return type(error).__name__, str(error)
    return None, ""


if __name__ == "__main__":
    main()
