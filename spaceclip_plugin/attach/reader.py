"""Depth beside a control loop: decoded every k-th host step, or in a thread of its own."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable

from typing_extensions import Self

from spaceclip_plugin._checks import integer
from spaceclip_plugin.attach.attachment import DepthAttachment
from spaceclip_plugin.attach.streams import finish
from spaceclip_plugin.depth import DepthMap
from spaceclip_plugin.errors import ConfigError, SpaceClipError
from spaceclip_plugin.head.depth_head import checked_size

Work = Callable[[], list[DepthMap]]


class DepthReader:
    """Reads an attachment as often as a control loop can afford; every depth carries its age in host steps.

    In the background the newest step wins: while one is decoded, steps that pass are dropped but for the last. The host
    and the head then share cores, or the device. A host that writes over its activations in place must be attached with
    `UnreadFrames(copy=True)`; one that does is noticed and reported, in inference mode not always.

    Example:
        Depth at every second host step of a small random host:

        >>> import timm, torch
        >>> from spaceclip_plugin import attach_depth_head
        >>> policy = timm.models.VisionTransformer(img_size=32, patch_size=8, embed_dim=32, depth=4, num_heads=2).eval()
        >>> with torch.no_grad(), attach_depth_head(policy) as depth, DepthReader(depth, every=2) as reader:
        ...     for _ in range(4):
        ...         _ = policy(torch.randn(1, 3, 32, 32))
        ...         _ = reader.step()  # once per host step, in the host's thread
        ...         print(reader.latest.step, reader.latest.age)
        0 0
        0 1
        2 0
        2 1
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
            every: host steps from one that is read to the next, at least: a step in which the tower runs is read once
                so many have passed, and the frames of others are dropped undecoded. The newest depth is then up to
                `every - 1` steps old. Where the tower runs once per chunk of queued actions, `every` is rounded up to
                whole chunks: with chunks of 50, every=3 reads every chunk (49 steps old at most), every=60 every second
                (99). In the background, the steps that decoding takes are added.
            background: decode in a thread of its own; depth is then ready some steps later.
            output_size: (H, W) of the depth; the size of the image the tower saw if None.

        Raises:
            ConfigError: `every` is no integer from 1 to a million, or an impossible output size.
        """
        self._attachment = attachment
        self._every = integer("every", every, 1, 10**6)
        self._output_size = None if output_size is None else checked_size(output_size)
        self._due_at = 0  # host step
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
        step = self._attachment.steps
        try:
            maps = self._read()
            return maps if self._worker is None else self._worker.finished()
        except SpaceClipError:
            self._due_at = 0  # there is no depth of the step that failed: the next one is read
            raise
        finally:
            if self._attachment.steps == step:  # what could not be read was a step, too
                self._attachment.step()

    def _read(self) -> list[DepthMap]:
        step = self._attachment.steps
        if step < self._due_at or not self._attachment.unread:
            self._attachment.skip()  # which tells of what went wrong with the taps, even where there is no frame
            return []
        self._due_at = step + self._every
        if self._worker is None:
            return self._attachment.read(self._output_size)
        self._worker.hand_over(self._attachment.read_later(self._output_size))
        return []

    @property
    def latest(self) -> DepthMap | None:
        """The newest depth that is ready; see `DepthAttachment.latest`."""
        return self._attachment.latest

    @property
    def latest_of_each(self) -> tuple[DepthMap, ...]:
        """The newest depth of every camera that is ready; see `DepthAttachment.latest_of_each`."""
        return self._attachment.latest_of_each

    def latest_of(self, camera: str) -> DepthMap | None:
        """The newest depth of one camera that is ready; see `DepthAttachment.latest_of`.

        Raises:
            ConfigError: no camera has that name.
        """
        return self._attachment.latest_of(camera)

    def wait(self) -> None:
        """Wait until everything that was handed to the thread is decoded; without one, nothing is waited for."""
        if self._worker is not None:
            self._worker.wait()

    def close(self) -> None:
        """Stop reading: what is being decoded is finished, the rest dropped. May be called again."""
        self._closed = True
        if self._worker is not None:
            self._worker.close()
            self._worker.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()


class _Worker(threading.Thread):
    """Does the newest work it was given; what is replaced before it was begun is never done."""

    def __init__(self) -> None:
        super().__init__(name="spaceclip depth", daemon=True)
        self._changed = threading.Condition()
        self._next: Work | None = None
        self._busy = False
        self._closed = False
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
            self._changed.wait_for(lambda: self._closed or (self._next is None and not self._busy))

    def close(self) -> None:
        with self._changed:
            self._closed, self._next = True, None
            self._changed.notify_all()

    def run(self) -> None:
        while (work := self._take()) is not None:
            maps: list[DepthMap] = []
            error: Exception | None = None
            try:
                maps = work()
                for depth in maps:
                    finish(depth.depth_m)
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
            self._changed.wait_for(lambda: self._closed or self._next is not None)
            work, self._next = self._next, None
            self._busy = work is not None
            return work


def _leave(worker: _Worker) -> None:
    """Stop a thread that nobody reads from; at interpreter exit also wait for it, or torch aborts the process."""
    worker.close()
    if not threading.main_thread().is_alive():  # the interpreter is on its way out
        worker.join()
