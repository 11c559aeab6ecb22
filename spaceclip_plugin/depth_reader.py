"""Depth beside a control loop: decoded every k-th host step, or in a thread of its own."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from types import TracebackType

from typing_extensions import Self

from spaceclip_plugin.attachment import DepthAttachment
from spaceclip_plugin.depth_map import DepthMap
from spaceclip_plugin.errors import ConfigError
from spaceclip_plugin.head.depth_head import checked_size
from spaceclip_plugin.head.fields import whole

Work = Callable[[], list[DepthMap]]


class DepthReader:
    """Reads an attachment as often as a control loop can afford; every depth carries its age in host steps.

        with DepthReader(depth, every=3, background=True) as reader:
            while True:
                action = policy.select_action(observation)
                reader.step()  # once per host step, in the host's thread
                if reader.latest is None or reader.latest.age > 5:
                    ...  # too old to act on

    In the background the newest step wins: while one is decoded, steps that pass are dropped but for the last. The host
    and the head then share cores, or the device. A host that writes over its activations in place must be attached with
    copy=True; one that does is noticed and reported, in inference mode not always.
    """

    def __init__(
        self,
        attachment: DepthAttachment,
        *,
        every: int = 1,
        background: bool = False,
        output_size: tuple[int, int] | None = None,
    ) -> None:
        """Start reading; in the background, start the thread.

        Args:
            attachment: whose frames are read from here on by this reader alone.
            every: of so many host steps in which the tower runs the first is read; the frames of the others are
                dropped undecoded. Steps that only serve queued actions do not count.
            background: decode in a thread of its own; depth is then ready some steps later.
            output_size: (H, W) of the depth; the size of the image the tower saw if None.

        Raises:
            ConfigError: `every` is below 1, or an impossible output size.
        """
        self._attachment = attachment
        self._every = whole("every", every, 1, 10**6)
        self._output_size = None if output_size is None else checked_size(output_size)
        self._until_next = 0
        self._closed = False
        self._worker: _Worker | None = None
        if background:
            self._worker = _Worker()
            self._worker.start()
            weakref.finalize(self, _leave, self._worker)  # a forgotten reader takes its thread along

    def step(self) -> list[DepthMap]:
        """End a host step; returns the depth that has become ready since the last call, oldest first.

        Raises:
            CaptureError: what reading this step, or in the background an earlier one, ran into; its frames are lost.
            ConfigError: the reader is closed.
        """
        if self._closed:
            raise ConfigError("this reader is closed; make another one, or read the attachment itself")
        maps: list[DepthMap] = []
        if self._attachment.unread == 0:
            self._attachment.step()
        elif not self._is_due():
            self._attachment.skip()
        elif self._worker is None:
            maps = self._attachment.read(self._output_size)
        else:
            self._worker.hand_over(self._attachment.read_later(self._output_size))
        if self._worker is not None:
            maps = self._worker.finished()
        return [depth.relabelled(age=self._attachment.steps - 1 - depth.step) for depth in maps]

    def _is_due(self) -> bool:
        due = self._until_next == 0
        self._until_next = (self._until_next or self._every) - 1
        return due

    @property
    def latest(self) -> DepthMap | None:
        """The newest depth that is ready, with its age by now; see `DepthAttachment.latest`."""
        return self._attachment.latest

    def wait(self) -> None:
        """Wait until everything that was handed to the thread is decoded; without one, nothing is waited for."""
        if self._worker is not None:
            self._worker.wait()

    def close(self) -> None:
        """Stop reading: what is being decoded is finished, the rest dropped. May be called again."""
        self._closed = True
        if self._worker is not None:
            self._worker.stop()
            self._worker.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Worker(threading.Thread):
    """Does the newest work it was given; what is replaced before it was begun is never done."""

    def __init__(self) -> None:
        super().__init__(name="spaceclip depth", daemon=True)
        self._changed = threading.Condition()
        self._next: Work | None = None
        self._busy = False
        self._stopped = False
        self._maps: list[DepthMap] = []
        self._error: Exception | None = None

    def hand_over(self, work: Work) -> None:
        with self._changed:
            self._next = work
            self._changed.notify_all()

    def finished(self) -> list[DepthMap]:
        """What was decoded since the last call; raises what a decoding raised."""
        with self._changed:
            maps, self._maps = self._maps, []
            error, self._error = self._error, None
        if error is not None:
            raise error
        return maps

    def wait(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or (self._next is None and not self._busy))

    def stop(self) -> None:
        with self._changed:
            self._stopped, self._next = True, None
            self._changed.notify_all()

    def run(self) -> None:
        while (work := self._take()) is not None:
            maps: list[DepthMap] = []
            error: Exception | None = None
            try:
                maps = work()
            except Exception as caught:  # whatever it is, it is raised in the host's thread, by `finished`
                error = caught
            del work  # or the activations would live on until the next
            with self._changed:
                self._maps += maps
                self._error = self._error or error
                self._busy = False
                self._changed.notify_all()

    def _take(self) -> Work | None:
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or self._next is not None)
            work, self._next = self._next, None
            self._busy = work is not None
            return work


def _leave(worker: _Worker) -> None:
    """Stop a thread that nobody reads from; at interpreter exit also wait for it, or torch aborts the process."""
    worker.stop()
    if not threading.main_thread().is_alive():  # the interpreter is on its way out
        worker.join()
