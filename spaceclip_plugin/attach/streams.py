"""CUDA streams: what is read of a frame waits for what the tower queued, on whichever streams the two run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from spaceclip_plugin.attach.compiled_code import is_compiling

if TYPE_CHECKING:
    from spaceclip_plugin.towers import RawFrame

_GPU = "cuda"  # torch's name for AMD's, too


def running_stream(value: Tensor | None) -> torch.cuda.Stream | None:
    """The stream that this thread queues work on for the device of that tensor; None of none, and in compiled code."""
    if is_compiling() or value is None or value.device.type != _GPU:
        return None
    return torch.cuda.current_stream(value.device)


def wait_for(frame: RawFrame) -> None:
    """Queue what this thread does next behind the tower's work, and keep the frame's memory from those who come after.

    Nothing is waited for here, and nothing done where tower and reader share a stream, as they usually do. A tower
    whose stream is not known, such as a compiled one, is taken to run on the default one.
    """
    for device, tensors in _by_gpu(frame).items():
        here, there = torch.cuda.current_stream(device), torch.cuda.default_stream(device)
        if frame.stream is not None and frame.stream.device == device:
            there = frame.stream
        if here != there:
            here.wait_stream(there)
            for tensor in tensors:
                tensor.record_stream(here)


def finish(value: Tensor) -> None:
    """Wait until what this thread queued for the device of that tensor is done: it may go to another thread."""
    if value.device.type == _GPU:
        torch.cuda.current_stream(value.device).synchronize()


def _by_gpu(frame: RawFrame) -> dict[torch.device, list[Tensor]]:
    found: dict[torch.device, list[Tensor]] = {}
    for tensor in frame.held():
        if tensor.device.type == _GPU:
            found.setdefault(tensor.device, []).append(tensor)
    return found
