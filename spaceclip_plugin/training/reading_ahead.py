"""Items of a data set in order, read ahead by worker processes whose signals and deaths are a run's own business."""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import signal
import threading
from collections.abc import Iterator
from multiprocessing.synchronize import Event
from types import FrameType
from typing import TypeVar, cast

import torch
from torch import multiprocessing
from torch.utils.data import DataLoader, Dataset

from spaceclip_plugin.errors import SpaceClipError, TrainingError

Item = TypeVar("Item")

_OF_A_DEAD_WORKER = "DataLoader worker (pid"
"""How torch begins to say that a worker is gone; an error in one begins otherwise."""


def read_ahead(dataset: Dataset[Item | SpaceClipError], *, workers: int, pinned: bool = False) -> Iterator[Item]:
    """Every item of a data set, in order, whatever the number of workers.

    Ctrl-C and the SIGTERM of a scheduler reach all processes of a group. The workers ignore both: the run says when it
    stops, and a worker ends with the iteration, with the run, or some seconds after a run that was killed.

    Args:
        dataset: an item may be an error of ours: a loader would bury the message of one that is raised in a worker.
        workers: processes that read ahead; 0 reads in this one.
        pinned: in memory from which a GPU copies faster.

    Raises:
        SpaceClipError: an item that is one, in its place.
        TrainingError: a worker was killed. It is raised where the next item is asked for, and nowhere else.
    """
    with _ending() as ending:
        loader = DataLoader(
            dataset,
            batch_size=None,
            num_workers=workers,
            pin_memory=pinned,
            worker_init_fn=functools.partial(_obey_the_run_alone, ending),
            # A loader draws a seed for its workers, by default from the numbers that dropout draws from.
            generator=torch.Generator().manual_seed(0),
        )
        try:
            items = iter(loader)
            with _deaths_told_by_the_loader() if workers else contextlib.nullcontext():
                for item in items:
                    if isinstance(item, SpaceClipError):
                        raise item
                    yield cast(Item, item)
        except RuntimeError as error:
            if not str(error).startswith(_OF_A_DEAD_WORKER):
                raise
            raise TrainingError(
                f"a process that reads data ahead was killed, most likely because memory ran out ({error}). The newest "
                "checkpoint and the cached features that were written stay: continue the run with --resume and fewer "
                "--workers"
            ) from error


@contextlib.contextmanager
def _ending() -> Iterator[Event]:
    """An event that is set when the block ends, or the process."""
    ending = multiprocessing.get_context().Event()
    atexit.register(ending.set)  # before multiprocessing's own handler, which waits for the workers it has told to end
    try:
        yield ending
    finally:
        ending.set()
        atexit.unregister(ending.set)


def _obey_the_run_alone(ending: Event, _: int) -> None:
    """In a worker: SIGTERM means something once the run has let go of it, and SIGINT nothing."""

    def asked(number: int, frame: FrameType | None) -> None:
        if ending.is_set():
            os._exit(0)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, asked)


@contextlib.contextmanager
def _deaths_told_by_the_loader() -> Iterator[None]:
    """Within the block a dead worker raises nothing by itself.

    torch notices it in a signal handler, which raises wherever the main thread is: in the middle of a step, or while
    the processes of a run wait for each other. The loader notices by itself when it waits for the worker's items.
    """
    noticed = signal.getsignal(signal.SIGCHLD) if hasattr(signal, "SIGCHLD") else None
    if not callable(noticed) or not _in_main_thread():
        yield  # then torch has no handler here
        return

    def silent(number: int, frame: FrameType | None) -> None:
        try:
            noticed(number, frame)
        except RuntimeError as error:
            if not str(error).startswith(_OF_A_DEAD_WORKER):
                raise

    signal.signal(signal.SIGCHLD, silent)
    try:
        yield
    finally:
        # Whoever set another handler since has kept ours, and calls it.
        if _in_main_thread() and signal.getsignal(signal.SIGCHLD) is silent:
            signal.signal(signal.SIGCHLD, noticed)


def _in_main_thread() -> bool:
    """Elsewhere no handler can be set."""
    return threading.current_thread() is threading.main_thread()
