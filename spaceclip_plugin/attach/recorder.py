"""The frames that a tower's taps leave behind, from the host's call until someone reads them.

A frame is one image call. It starts at the tower's entry, which runs even where the tower's own `__call__` is bypassed.
"""

from __future__ import annotations

import contextlib
import itertools
import sys
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from spaceclip_plugin._checks import integer
from spaceclip_plugin.attach import compiled_code
from spaceclip_plugin.attach.compiled_code import is_compiling
from spaceclip_plugin.attach.streams import running_stream
from spaceclip_plugin.attach.taps import BeginTap, EndTap, InputTap, OutputTap, Tap, first_tensor, has_taps
from spaceclip_plugin.errors import CaptureError
from spaceclip_plugin.towers import ImageCall, RawFrame, Tower

_STAND_INS = ("FakeTensor", "FunctionalTensor")


@dataclass(frozen=True)
class UnreadFrames:
    """How frames wait to be read; beyond these bounds the oldest is dropped and counted, the newest always kept.

    The defaults are five steps of three cameras, and twice the bytes that as many frames of a So400m hold (8 MiB each
    at 224 pixels in float32 with the default head, 4 MiB of a ViT-B/16), so that the number decides at the usual sizes;
    megapixel images of a Qwen-VL would otherwise hold 0.8 GB of the host's device for depth that nobody reads.

    Attributes:
        max_frames: unread frames, at least 1.
        max_bytes: memory that they keep alive, at least 1 byte.
        copy: keep copies of the activations, not references, for a host that overwrites them in place; and of the
            images, for a head that reads them. Those are copied anyway where torch does not count what is written to
            them (in inference mode), but not where others write behind its back: to a NumPy array of the same memory.
        gradients: keep the graph that made the activations, for `DepthAttachment.features` of a tower that is trained;
            see `AuxiliaryDepth`. It stays in memory until the frame is read.

    Raises:
        ConfigError: a bound that is no such number.

    Example:
        >>> UnreadFrames(max_frames=1).max_bytes
        268435456
    """

    max_frames: int = 16
    max_bytes: int = 256 * 2**20
    copy: bool = False
    gradients: bool = False

    def __post_init__(self) -> None:
        for name in ("max_frames", "max_bytes"):
            object.__setattr__(self, name, integer(name, getattr(self, name), 1, sys.maxsize))

    def kept(self, frames: Sequence[RawFrame]) -> int:
        """How many of these frames may stay, counted from the newest, which is about to run and holds nothing yet.

        Its activations are taken to be those of the frame before it, in proportion to the pixels.
        """
        kept = 1
        if len(frames) <= kept:
            return kept
        sizes = [frame.held_bytes() for frame in frames[:-1]]
        held = sizes[-1]
        pixels, pixels_before = frames[-1].call.taken, frames[-2].call.taken
        if pixels is not None and pixels_before is not None and pixels_before.numel() > 0:
            held = held * pixels.numel() // pixels_before.numel()
        for size in reversed(sizes):
            held += size
            if kept == self.max_frames or held > self.max_bytes:
                break
            kept += 1
        return kept


class FrameRecorder:
    """Records the frames of one tower from `start()` to `close()`; it may be started again."""

    def __init__(
        self, tower: Tower, taps: Sequence[int], *, context: bool, unread: UnreadFrames, pixels: bool = False
    ) -> None:
        self.tower = tower
        self.taps = tuple(taps)  # hidden states, ascending
        self.pixels = pixels  # whether the images that the tower takes are read too
        self.dropped = 0  # unread frames that were beyond the bounds
        self.step = 0  # host steps so far; frames are marked with it
        self._context = context and tower.context_source is not None
        self._bounds = unread
        self._frames: deque[RawFrame] = deque()
        self._calls = itertools.count()  # two threads never draw one number
        self._fault: Exception | None = None
        self._ran_unseen = False  # written by compiled hooks too, which must not read what changes
        # Two threads may run the host at once: each fills the frame that it began itself.
        self._running = threading.local()
        self._newest: dict[int, RawFrame] = {}
        self._handles: list[RemovableHandle] = []
        self._tapped: list[nn.Module] = []

    def twin(self) -> FrameRecorder:
        """Another recorder of the same taps and bounds, not started."""
        return FrameRecorder(self.tower, self.taps, context=self._context, unread=self._bounds, pixels=self.pixels)

    def start(self) -> None:
        """Register the hooks; if one cannot be registered, none stays."""
        tower = self.tower
        try:
            self._tap(tower.entry, before=BeginTap(self))
            if 0 in self.taps:
                self._tap(tower.blocks[0], before=InputTap(self))
            for tap in self.taps:
                if tap > 0:
                    self._tap(tower.blocks[tap - 1], after=OutputTap(self, tap))
            if self._context and tower.context_source is not None:
                self._tap(tower.context_source, after=OutputTap(self, None))
            if tower.module is not tower.entry:
                self._tap(tower.module, after=EndTap(self))
            compiled_code.taps_came(self._tapped)
        except BaseException:
            self.close()
            raise

    def _tap(self, module: nn.Module, *, before: Tap | None = None, after: Tap | None = None) -> None:
        if before is not None:
            self._handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
        if after is not None:
            self._handles.append(module.register_forward_hook(after))
        self._tapped.append(module)

    def close(self) -> None:
        """Remove every hook and let go of every reference; may be called again."""
        for handle in self._handles:
            handle.remove()
        if self._handles:
            compiled_code.taps_left(self._tapped, still_tapped=has_taps)
        self._handles.clear()
        self._tapped.clear()
        self._frames.clear()
        self._newest.clear()
        self._running = threading.local()
        self._ran_unseen = False

    def take(self) -> list[RawFrame]:
        """The frames since the last call, oldest first. One that another thread is still running is left for later.

        CaptureError where a hook failed, which loses the frames, or where the tower ran unseen, which keeps them.
        """
        fault, self._fault = self._fault, None
        unseen, self._ran_unseen = self._ran_unseen, False
        alive = {thread.ident for thread in threading.enumerate()}
        for ended in [thread for thread in list(self._newest) if thread not in alive]:
            self._newest.pop(ended, None)  # its last frame will not be completed any more
        frames: list[RawFrame] = []
        running: list[RawFrame] = []
        while self._frames:
            try:
                frame = self._frames.popleft()
            except IndexError:  # the host's thread dropped it meanwhile
                break
            elsewhere = frame.thread != threading.get_ident() and self._newest.get(frame.thread) is frame
            (running if elsewhere and not self._is_complete(frame) else frames).append(frame)
        self._frames.extendleft(reversed(running))
        if fault is not None:
            raise CaptureError(
                f"a tap failed while the host ran: {type(fault).__name__}: {fault}. The host was not disturbed; "
                f"{len(frames)} frame(s) were dropped. Is adapter {self.tower.spec.adapter!r} right for this tower?"
            ) from fault
        if unseen:
            self.put_back(frames)
            raise CaptureError(
                f"the {self.tower.spec} ran, but its taps saw no image: its entry was not called, as where its parts "
                "were traced, exported, replayed from a CUDA graph or called by .forward(), which no hook sees. There "
                "is no depth of what it saw; run it as a module, or attach before it is compiled"
            )
        return frames

    @property
    def unread(self) -> int:
        """Frames that nobody took yet."""
        return len(self._frames)

    def newest(self) -> RawFrame | None:
        """The newest frame that waits, whole or not."""
        return self._frames[-1] if self._frames else None

    def put_back(self, frames: Sequence[RawFrame]) -> None:
        """Return frames that were taken but not read, before those that have come since."""
        self._frames.extendleft(reversed(frames))

    def abandon(self) -> None:
        """Forget the frame this thread began and did not finish, if there is one."""
        frame = self._newest.pop(threading.get_ident(), None)
        if frame is not None:
            self._running.frame = None
            with contextlib.suppress(ValueError):  # dropped already
                self._frames.remove(frame)

    def check_complete(self, frame: RawFrame) -> None:
        """Raise CaptureError naming the taps that did not fire in that frame, or that the host overwrote since."""
        missing = [f"hidden state {tap}" for tap in self.taps if tap not in frame.hidden]
        if self._context and frame.context is None:
            missing.append("the context")
        if missing:
            other = "that reads no context" if missing == ["the context"] else "with other taps"
            raise CaptureError(
                f"image call {frame.index} of the {self.tower.spec} did not reach: {', '.join(missing)}. The host may "
                "have stopped early, failed, or called a block's .forward() directly, which no hook sees; run the "
                f"tower to its end, or use a head {other}."
            )
        if frame.overwritten():
            raise CaptureError(
                f"the {self.tower.spec} overwrote activations of image call {frame.index} in place after its blocks "
                "returned them; attach with unread=UnreadFrames(copy=True), which keeps copies"
            )

    def begin(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Start a frame from the arguments of the tower's entry."""
        self._running.begun = True
        if any(type(value).__name__ in _STAND_INS for value in (*args, *kwargs.values())):
            return  # torch.export, where it does not say so, runs the host on tensors without values
        call = self.tower.adapter.image_call(self.tower, args, kwargs)
        if call.layout is not None:
            call = replace(call, layout=call.layout.clone())  # a few numbers, which the caller may use again
        stream = running_stream(call.taken)
        call = self._kept_call(call)
        thread = threading.get_ident()
        threading.current_thread()  # makes a thread that Python did not start known to threading.enumerate
        version = _version(call.taken)
        frame = RawFrame(next(self._calls), call, self.step, thread, pixels_version=version, stream=stream)
        self._running.frame = self._newest[thread] = frame
        self._frames.append(frame)
        waiting = tuple(self._frames)  # other threads add theirs meanwhile: of these, and no others, some go
        for old in waiting[: len(waiting) - self._bounds.kept(waiting)]:
            try:
                self._frames.remove(old)
            except ValueError:  # another thread took or dropped it
                continue
            self.dropped += 1

    def _kept_call(self, call: ImageCall) -> ImageCall:
        if not self.pixels:
            return replace(call, patches=None)  # nobody reads them, and they may be many
        if call.taken is None:
            return call
        kept = call.taken.detach()  # without the graph of what made them; it shares their version
        if self._bounds.copy or _version(kept) is None:  # uncounted, a buffer that is filled again would not show
            kept = kept.clone()
        return replace(call, patches=kept) if call.pixels is None else replace(call, pixels=kept)

    def keep(self, tap: int | None, value: object) -> None:
        """Keep hidden state `tap` of the running frame, or its raw context where `tap` is None."""
        frame = getattr(self._running, "frame", None)
        if frame is None:
            self._note_unseen()
            return
        kept = first_tensor(value)
        if not self._bounds.gradients:
            kept = kept.detach()  # shares memory and version with what the host goes on with
        if self._bounds.copy:
            kept = kept.clone()
        elif (version := _version(kept)) is not None:
            frame.versions.append((kept, version))
        if tap is None:
            frame.context = kept
        else:
            frame.hidden[tap] = kept
        # Otherwise the newest activations would stay alive after they are read, until the host's next step.
        if self._is_complete(frame):
            self._running.frame = None
            self._newest.pop(frame.thread, None)

    def end(self) -> None:
        """Note that the tower's call ended: an image was seen in it, or something runs it past its entry."""
        self._note_unseen()
        self._running.begun = False

    def failed(self, error: Exception) -> None:
        """Remember what a hook ran into; `take` reports it."""
        self._fault = error

    def _note_unseen(self) -> None:
        # A frame that is complete was let go of, and its tower may go on; without any, nobody called the entry.
        if not getattr(self._running, "begun", False):
            self._ran_unseen = True

    def _is_complete(self, frame: RawFrame) -> bool:
        return len(frame.hidden) == len(self.taps) and (frame.context is not None or not self._context)


def _version(value: Tensor | None) -> int | None:
    """How often a tensor was changed in place; None where that is not counted, or must not be asked for."""
    return None if value is None or is_compiling() or value.is_inference() else value._version
