"""What a function makes of one thing after the other, made ahead by worker processes.
Signals and the deaths of workers are the run's own business: torch's loader would end the run on a worker's behalf."""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.synchronize import Event
from types import FrameType
from typing import TypeVar, cast

import torch
from torch import multiprocessing
from torch.utils.data import DataLoader, Dataset

from spaceclip_plugin.errors import SpaceClipError, TrainingError
from spaceclip_plugin.training.interruption import in_main_thread

Wanted = TypeVar("Wanted")
Item = TypeVar("Item")

_DEAD_WORKER = "DataLoader worker (pid"  # how torch says that one is gone; an error in one begins otherwise


def read_ahead(
    read: Callable[[Wanted], Item], wanted: Sequence[Wanted], *, workers: int, pinned: bool = False
) -> Iterator[Item]:
    """`read` of everything that is wanted, in order; an error of ours is raised in its place, and that a worker was
    killed (TrainingError) where the next item is asked for. `pinned`: in memory from which a GPU copies faster."""
    with _run_end() as ended:
        loader = DataLoader(
            _Read(read, wanted),
            batch_size=None,
            num_workers=workers,
            pin_memory=pinned,
            worker_init_fn=functools.partial(_ignore_signals, ended),
            # A loader draws a seed for its workers, by default from the numbers that dropout draws from.
            generator=torch.Generator().manual_seed(0),
        )
        try:
            items = iter(loader)
            with _deaths_raised_by_the_loader_alone() if workers else contextlib.nullcontext():
                for item in items:
                    if isinstance(item, SpaceClipError):
                        raise item
                    yield cast(Item, item)
        except RuntimeError as error:
            if not str(error).startswith(_DEAD_WORKER):
                raise
            raise TrainingError(
                f"a process that reads data ahead was killed, most likely because memory ran out ({error}). The newest "
                "checkpoint and the cached features that were written stay: continue the run with --resume and fewer "
                "--workers"
            ) from error


class _Read(Dataset[object]):
    """Item i is what is read of `wanted[i]`, or the error of ours: a loader would bury one raised in a worker."""

    def __init__(self, read: Callable[[Wanted], object], wanted: Sequence[Wanted]) -> None:
        self._read = read
        self._wanted = wanted

    def __len__(self) -> int:
        return len(self._wanted)

    def __getitem__(self, index: int) -> object:
        try:
            return self._read(self._wanted[index])
        except SpaceClipError as error:
            return error


@contextlib.contextmanager
def _run_end() -> Iterator[Event]:
    """An event that is set when the block ends, or the process."""
    ended = multiprocessing.get_context().Event()
    atexit.register(ended.set)  # before multiprocessing's own handler, which waits for the workers it asked to end
    try:
        yield ended
    finally:
        ended.set()
        atexit.unregister(ended.set)


def _ignore_signals(ended: Event, _: int) -> None:
    """In a worker, which both reach with its group: SIGINT does nothing, SIGTERM nothing until the run let go of it."""

    def asked(number: int, frame: FrameType | None) -> None:
        if ended.is_set():
            os._exit(0)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, asked)


@contextlib.contextmanager
def _deaths_raised_by_the_loader_alone() -> Iterator[None]:
    """torch notices a dead worker in a signal handler, which raises wherever the main thread is, as in mid-step.
    Within the block it does not; the loader notices by itself when it waits for the worker's items."""
    noticed = signal.getsignal(signal.SIGCHLD) if hasattr(signal, "SIGCHLD") else None
    if not callable(noticed) or not in_main_thread():
        yield  # then torch has no handler here
        return

    def silent(number: int, frame: FrameType | None) -> None:
        try:
            noticed(number, frame)
        except RuntimeError as error:
            if not str(error).startswith(_DEAD_WORKER):
                raise

    signal.signal(signal.SIGCHLD, silent)
    try:
        yield
    finally:
        # Whoever set another handler since has kept ours, and calls it.
        if in_main_thread() and signal.getsignal(signal.SIGCHLD) is silent:
            signal.signal(signal.SIGCHLD, noticed)
