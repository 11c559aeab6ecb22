"""Taps: forward hooks that keep references to a tower's activations and nothing else.

A frame is one image call. It starts when the tower's entry is called, which happens even where the tower's own
`__call__` is bypassed, and gathers the tapped hidden states and the context as the blocks run. Nothing is computed,
copied or synchronised in the host's time; shapes are interpreted when someone reads.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from spaceclip_plugin.attach import compiled_code
from spaceclip_plugin.attach.compiled_code import is_compiling, is_exporting
from spaceclip_plugin.attach.unread_frames import UnreadBounds
from spaceclip_plugin.errors import CaptureError
from spaceclip_plugin.towers.spec import RawFrame, Tower

_STAND_INS = ("FakeTensor", "FunctionalTensor")


class FrameRecorder:
    """Records the frames of one tower from `start()` to `stop()`.

    Attributes:
        tower: the tower that is watched.
        taps: hidden states that are kept, ascending.
        dropped: unread frames discarded because more than the bounds allow were waiting.
        step: host steps so far; frames are marked with it.
    """

    def __init__(
        self, tower: Tower, taps: Sequence[int], *, context: bool, bounds: UnreadBounds, copy: bool = False
    ) -> None:
        self.tower = tower
        self.taps = tuple(taps)
        self.dropped = 0
        self.step = 0
        self._context = context and tower.context_source is not None
        self._copy = copy
        self._bounds = bounds
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
        return FrameRecorder(self.tower, self.taps, context=self._context, bounds=self._bounds, copy=self._copy)

    def start(self) -> None:
        """Register the hooks; if one cannot be registered, none stays."""
        tower = self.tower
        try:
            self._tap(tower.entry, before=_Begin(self))
            if 0 in self.taps:
                self._tap(tower.blocks[0], before=_Input(self))
            for tap in self.taps:
                if tap > 0:
                    self._tap(tower.blocks[tap - 1], after=_Output(self, tap))
            if self._context and tower.context_source is not None:
                self._tap(tower.context_source, after=_Context(self))
            if tower.module is not tower.entry:
                self._tap(tower.module, after=_End(self))
            compiled_code.taps_came(self._tapped)
        except BaseException:
            self.stop()
            raise

    def _tap(self, module: nn.Module, *, before: _Hook | None = None, after: _Hook | None = None) -> None:
        if before is not None:
            self._handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
        if after is not None:
            self._handles.append(module.register_forward_hook(after))
        self._tapped.append(module)

    def stop(self) -> None:
        """Remove every hook and let go of every reference; may be called again."""
        for handle in self._handles:
            handle.remove()
        if self._handles:
            compiled_code.taps_left(self._tapped, still_tapped=_has_taps)
        self._handles.clear()
        self._tapped.clear()
        self._frames.clear()
        self._newest.clear()
        self._running = threading.local()
        self._ran_unseen = False

    def take(self) -> list[RawFrame]:
        """The frames since the last call, oldest first. One that another thread is still running is left for later.

        Raises:
            CaptureError: a hook failed while the host ran, and its frames are dropped; or the tower ran and its entry
                was not called, and the frames of other image calls stay. The host was not disturbed.
        """
        fault, self._fault = self._fault, None
        unseen, self._ran_unseen = self._ran_unseen, False
        alive = {thread.ident for thread in threading.enumerate()}
        for ended in [thread for thread in self._newest if thread not in alive]:
            self._newest.pop(ended, None)  # its last frame will not be completed any more
        frames: list[RawFrame] = []
        running: list[RawFrame] = []
        while self._frames:
            try:
                frame = self._frames.popleft()
            except IndexError:  # the host's thread dropped it meanwhile
                break
            (running if self._is_running_elsewhere(frame) else frames).append(frame)
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
                "returned them; attach with copy=True, which keeps copies"
            )

    def begin(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Start a frame from the arguments of the tower's entry."""
        self._running.begun = True
        if any(type(value).__name__ in _STAND_INS for value in (*args, *kwargs.values())):
            return  # torch.export, where it does not say so, runs the host on tensors without values
        call = self.tower.adapter.image_call(self.tower, args, kwargs)
        if call.layout is not None:
            call = replace(call, layout=call.layout.clone())  # a few numbers, which the caller may use again
        thread = threading.get_ident()
        threading.current_thread()  # makes a thread that Python did not start known to threading.enumerate
        frame = RawFrame(next(self._calls), call, self.step, thread, pixels_version=_version(call.pixels))
        self._running.frame = self._newest[thread] = frame
        self._frames.append(frame)
        waiting = tuple(self._frames)  # other threads add theirs meanwhile: of these, and no others, some go
        for old in waiting[: len(waiting) - self._bounds.kept(waiting)]:
            try:
                self._frames.remove(old)
            except ValueError:  # another thread took or dropped it
                continue
            self.dropped += 1

    def end(self) -> None:
        """Note that the tower's call ended: an image was seen in it, or something runs it past its entry."""
        if not getattr(self._running, "begun", False):
            self._ran_unseen = True
        self._running.begun = False

    def keep(self, tap: int, value: object) -> None:
        """Keep hidden state `tap` of the running frame."""
        frame = self._frame()
        if frame is None:
            self._note_unseen()
        else:
            frame.hidden[tap] = self._kept(frame, first_tensor(value))
            self._let_go_if_complete(frame)

    def keep_context(self, value: object) -> None:
        """Keep the raw context of the running frame."""
        frame = self._frame()
        if frame is None:
            self._note_unseen()
        else:
            frame.context = self._kept(frame, first_tensor(value))
            self._let_go_if_complete(frame)

    def _kept(self, frame: RawFrame, value: Tensor) -> Tensor:
        kept = value.detach()  # shares memory and version with what the host goes on with
        if self._copy:
            return kept.clone()
        version = _version(kept)
        if version is not None:
            frame.versions.append((kept, version))
        return kept

    def failed(self, error: Exception) -> None:
        """Remember what a hook ran into; `take` reports it."""
        self._fault = error

    def _frame(self) -> RawFrame | None:
        return getattr(self._running, "frame", None)

    def _note_unseen(self) -> None:
        # A frame that is complete was let go of, and its tower may go on; without any, nobody called the entry.
        if not getattr(self._running, "begun", False):
            self._ran_unseen = True

    def _is_complete(self, frame: RawFrame) -> bool:
        return len(frame.hidden) == len(self.taps) and (frame.context is not None or not self._context)

    def _is_running_elsewhere(self, frame: RawFrame) -> bool:
        elsewhere = frame.thread != threading.get_ident() and self._newest.get(frame.thread) is frame
        return elsewhere and not self._is_complete(frame)

    def _let_go_if_complete(self, frame: RawFrame) -> None:
        # Otherwise the newest activations would stay alive after they are read, until the host's next step.
        if self._is_complete(frame):
            self._running.frame = None
            self._newest.pop(frame.thread, None)


class _Hook:
    """A hook as an object: a copied or unpickled host carries an inert one that records nothing."""

    def __init__(self, recorder: FrameRecorder | None) -> None:
        self._recorder = recorder

    def __call__(self, module: nn.Module, *call: Any) -> None:
        recorder = self._recorder
        # A compiled block must not ask, for the question would break its graph.
        if recorder is None or is_exporting() or (not is_compiling() and _is_no_new_image()):
            return
        try:
            self.record(recorder, *call)
        except Exception as error:  # the host must live on, whatever a foreign module hands its hooks
            recorder.failed(error)

    @property
    def is_live(self) -> bool:
        """False for a hook that came along with a copy of a host."""
        return self._recorder is not None

    def record(self, recorder: FrameRecorder, *call: Any) -> None:
        """Keep what this hook is there for."""
        raise NotImplementedError

    def __deepcopy__(self, memo: dict[int, Any]) -> _Hook:
        return _Hook(None)

    def __reduce__(self) -> tuple[type[_Hook], tuple[None]]:
        return _Hook, (None,)


class _Begin(_Hook):
    def record(self, recorder: FrameRecorder, *call: Any) -> None:
        args, kwargs = call
        recorder.begin(args, kwargs)


class _Input(_Hook):
    def record(self, recorder: FrameRecorder, *call: Any) -> None:
        args, kwargs = call
        recorder.keep(0, args[0] if args else kwargs.get("hidden_states"))


class _Output(_Hook):
    def __init__(self, recorder: FrameRecorder, tap: int) -> None:
        super().__init__(recorder)
        self._tap = tap

    def record(self, recorder: FrameRecorder, *call: Any) -> None:
        recorder.keep(self._tap, call[-1])


class _Context(_Hook):
    def record(self, recorder: FrameRecorder, *call: Any) -> None:
        recorder.keep_context(call[-1])


class _End(_Hook):
    def record(self, recorder: FrameRecorder, *call: Any) -> None:
        recorder.end()


def _has_taps(module: nn.Module) -> bool:
    """Whether hooks of another recorder are on that module."""
    hooks = (*module._forward_pre_hooks.values(), *module._forward_hooks.values())
    return any(isinstance(hook, _Hook) and hook.is_live for hook in hooks)


def _version(value: Tensor | None) -> int | None:
    """How often a tensor was changed in place; None where that is not counted, or must not be asked for."""
    return None if value is None or is_compiling() or value.is_inference() else value._version


def _is_no_new_image() -> bool:
    """Whether this call is gradient checkpointing running a block again inside backward, or torch.jit tracing it."""
    return torch._C._current_graph_task_id() != -1 or torch._C._get_tracing_state() is not None


def first_tensor(value: object) -> Tensor:
    """The activation in what a module returned: itself, the first of a tuple, or a model output's first field.

    Raises:
        CaptureError: there is no tensor where one is expected.
    """
    if isinstance(value, Tensor):
        return value
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (tuple, list)) and value and isinstance(value[0], Tensor):
        return value[0]
    raise CaptureError(f"expected a tensor or a tuple that starts with one, got {type(value).__name__}")
