"""Taps: forward hooks that hand a recorder references to a tower's activations and do nothing else.

Nothing is computed or synchronised in the host's time, and nothing copied but what `UnreadFrames.copy` tells; shapes
are interpreted when someone reads.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from spaceclip_plugin.attach.compiled_code import is_compiling, is_exporting
from spaceclip_plugin.errors import CaptureError

if TYPE_CHECKING:
    from spaceclip_plugin.attach.recorder import FrameRecorder


class Tap:
    """A hook as an object: a copied or unpickled host carries an inert one that records nothing."""

    def __init__(self, recorder: FrameRecorder | None) -> None:
        self._recorder = recorder  # None of a hook that came along with a copy of a host

    def __call__(self, module: nn.Module, *call: Any) -> None:
        """Hand the call's arguments, and what it returned where the hook is behind the module, to the recorder."""
        recorder = self._recorder
        # A compiled block must not ask, for the question would break its graph.
        if recorder is None or is_exporting() or (not is_compiling() and _is_no_new_image()):
            return
        try:
            self._record(recorder, *call)
        except Exception as error:  # the host must live on, whatever a foreign module hands its hooks
            recorder.failed(error)

    def _record(self, recorder: FrameRecorder, *call: Any) -> None:
        raise NotImplementedError

    def __deepcopy__(self, memo: dict[int, Any]) -> Tap:
        return Tap(None)

    def __reduce__(self) -> tuple[type[Tap], tuple[None]]:
        return Tap, (None,)


class BeginTap(Tap):
    """Before the tower's entry."""

    def _record(self, recorder: FrameRecorder, *call: Any) -> None:
        recorder.begin(*call)


class InputTap(Tap):
    """Before the first block: hidden state 0."""

    def _record(self, recorder: FrameRecorder, *call: Any) -> None:
        args, kwargs = call
        recorder.keep(0, args[0] if args else kwargs.get("hidden_states"))


class OutputTap(Tap):
    """After a block, or after what gives the context where `tap` is None."""

    def __init__(self, recorder: FrameRecorder, tap: int | None) -> None:
        super().__init__(recorder)
        self._tap = tap

    def _record(self, recorder: FrameRecorder, *call: Any) -> None:
        recorder.keep(self._tap, call[-1])


class EndTap(Tap):
    """After the tower."""

    def _record(self, recorder: FrameRecorder, *call: Any) -> None:
        recorder.end()


def has_taps(module: nn.Module) -> bool:
    """Whether live taps, of whichever recorder, are on that module."""
    hooks = (*module._forward_pre_hooks.values(), *module._forward_hooks.values())
    return any(isinstance(hook, Tap) and hook._recorder is not None for hook in hooks)


def first_tensor(value: object) -> Tensor:
    """The activation in what a module returned: itself, the first of a tuple, or a model output's first field."""
    if isinstance(value, Tensor):
        return value
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (tuple, list)) and value and isinstance(value[0], Tensor):
        return value[0]
    raise CaptureError(f"expected a tensor or a tuple that starts with one, got {type(value).__name__}")


def _is_no_new_image() -> bool:
    """Whether this call is gradient checkpointing running a block again inside backward, or torch.jit tracing it."""
    return torch._C._current_graph_task_id() != -1 or torch._C._get_tracing_state() is not None
