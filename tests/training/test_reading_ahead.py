"""Workers that read ahead: signals are not for them, and one that dies is an error with advice, in its place."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from scripts import script_environment
from torch.utils.data import get_worker_info

from spaceclip_plugin.errors import DataError, TrainingError
from spaceclip_plugin.training.reading_ahead import read_ahead

HERE = Path(__file__).parent


TWELVE = range(12)


def killed_at(place: int, number: int) -> Callable[[int], int]:
    """Signals the worker that makes the item."""

    def make(index: int) -> int:
        if index == place and get_worker_info() is not None:
            time.sleep(0.5)  # what was made before has been sent
            os.kill(os.getpid(), number)
        return index

    return make


def busy(seconds: float) -> None:
    """Not a sleep: a handler of signals in Python runs between two of its steps."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_items_come_in_order(workers: int) -> None:
    assert list(read_ahead(lambda index: index * index, TWELVE, workers=workers)) == [i * i for i in range(12)]


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_of_ours_is_raised_in_its_place(workers: int) -> None:
    def read(index: int) -> int:
        if index == 3:
            raise DataError("list.txt:3 bad")
        return index

    items = read_ahead(read, TWELVE, workers=workers)
    assert [next(items) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(DataError, match=r"^list\.txt:3 bad$"):
        next(items)


def broken(index: int) -> int:
    raise RuntimeError(f"item {index} is broken")


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
def test_another_error_stays_what_it_is(workers: int) -> None:
    with pytest.raises(RuntimeError, match="item 0 is broken") as caught:
        list(read_ahead(broken, TWELVE, workers=workers))
    assert not isinstance(caught.value, TrainingError)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_workers_leave_signals_to_the_run(number: signal.Signals) -> None:
    assert list(read_ahead(killed_at(4, number), TWELVE, workers=2)) == list(range(12))


@pytest.mark.slow
def test_a_killed_worker_is_told_where_its_item_is_asked_for() -> None:
    items = read_ahead(killed_at(1, signal.SIGKILL), TWELVE, workers=1)
    assert next(items) == 0
    busy(1.5)  # the worker is dead by now, and the step that is being made must not break
    with pytest.raises(TrainingError, match=r"was killed, most likely because memory.*--resume and fewer --workers"):
        list(items)


def test_the_process_notices_its_children_as_before() -> None:
    list(read_ahead(int, TWELVE, workers=1))
    before = signal.getsignal(signal.SIGCHLD)
    items = read_ahead(int, TWELVE, workers=1)
    next(items)
    assert signal.getsignal(signal.SIGCHLD) is not before
    del items
    assert signal.getsignal(signal.SIGCHLD) is before


def alive(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_workers_end_after_a_run_that_was_killed(number: signal.Signals) -> None:
    command, environment = [sys.executable, HERE / "reading_run.py"], script_environment()
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        workers = [int(word) for word in run.stdout.readline().split()]
        assert len(set(workers)) == 2
        assert all(alive(worker) for worker in workers)
        run.send_signal(number)
    assert run.returncode == -number
    until = time.monotonic() + 30
    while any(alive(worker) for worker in workers) and time.monotonic() < until:
        time.sleep(0.1)
    assert not any(alive(worker) for worker in workers)


@pytest.mark.slow
def test_workers_end_with_a_run_that_still_holds_them() -> None:
    command = [sys.executable, HERE / "reading_run.py", "end"]
    run = subprocess.run(command, env=script_environment(), capture_output=True, timeout=120)
    assert run.returncode == 0, run.stderr


@pytest.mark.slow
def test_a_signal_to_the_whole_group_stops_a_run_cleanly(tmp_path: Path) -> None:
    argv = ["train", "--host", "python:small_world:tiny_host", "--protocol", "whole-image", "--data", "scenes:6"]
    argv += ["--val", "scenes:2:1", "--batch-size", "2", "--epochs", "2", "--views", "2", "--workers", "2"]
    out = tmp_path / "out"
    run = [sys.executable, HERE / "signalled_run.py"]
    apart: dict[str, Any] = {"capture_output": True, "text": True, "start_new_session": True}
    stopped = subprocess.run([*run, "2", *argv, "--out", out], env=script_environment(), **apart)
    assert stopped.returncode == 130, stopped.stderr
    assert "Traceback" not in stopped.stderr
    assert f"continue with: spaceclip train --resume {out}" in stopped.stderr
    assert (out / "checkpoints" / "step-00000002").is_dir()
    resumed = ["train", "--host", "python:small_world:tiny_host", "--resume", out]
    again = subprocess.run([*run, "-1", *resumed], env=script_environment(), **apart)
    assert again.returncode == 0, again.stderr
    assert "continuing at step 2" in again.stderr
