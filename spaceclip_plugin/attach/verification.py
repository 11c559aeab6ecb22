"""Does a host give the same bits with its taps as without? Measured, not assumed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from spaceclip_plugin.attach.host_state import tower_device
from spaceclip_plugin.attach.recorder import FrameRecorder
from spaceclip_plugin.errors import CaptureError
from spaceclip_plugin.towers.module_state import buffers_kept, random_state_kept


@dataclass(frozen=True)
class VerifyReport:
    """What `DepthAttachment.verify` found.

    Attributes:
        identical: every output tensor was the same, bit for bit, with the taps as without.
        max_abs_difference: largest absolute difference of any output element; NaN against NaN counts as equal.
        tensors: how many output tensors were compared.
        frames: image calls the taps recorded in the run.

    Example:
        >>> report = VerifyReport(identical=True, max_abs_difference=0.0, tensors=2, frames=1)
        >>> f"{report.tensors} tensors, identical={report.identical}"
        '2 tensors, identical=True'
    """

    identical: bool
    max_abs_difference: float
    tensors: int
    frames: int


def measure(recorder: FrameRecorder, host: nn.Module, call: Callable[[], object]) -> VerifyReport:
    """Run `call`, which uses the host, without and with the recorder's taps; see `DepthAttachment.verify`."""
    tapped, device = recorder.twin(), tower_device(recorder.tower)
    unread = recorder.take()
    recorder.close()
    try:
        plain_output = _outputs(call, host, device)
        tapped.start()
        tapped_output = _outputs(call, host, device)
        frames = tapped.take()
    finally:
        tapped.close()
        recorder.start()
        recorder.put_back(unread)
    if not frames:
        raise CaptureError(
            f"the host ran, but the {recorder.tower.spec} did not: this call uses no vision (a queued action?), "
            "or what was compiled or traced before the head was attached"
        )
    for frame in frames:
        recorder.check_complete(frame)
    if not plain_output:
        raise CaptureError("the host returned no tensor, array or number that could be compared")
    identical, difference = compare(plain_output, tapped_output)
    return VerifyReport(identical, difference, len(plain_output), len(frames))


def compare(plain: list[Tensor], tapped: list[Tensor]) -> tuple[bool, float]:
    """Whether two runs gave the same bits, and their largest absolute difference."""
    if len(plain) != len(tapped):
        return False, float("inf")
    identical, largest = True, 0.0
    for a, b in zip(plain, tapped, strict=True):
        if a.shape != b.shape or a.dtype != b.dtype:
            return False, float("inf")
        if not same_bits(a, b):
            identical = False
            difference = (a.to(torch.float64) - b.to(torch.float64)).abs()
            largest = max(largest, float(difference.nan_to_num(0.0).max()))
    return identical, largest


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Equality of representation: NaN equals NaN of the same bits, and +0 differs from -0."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if a.numel() == 0 or not a.is_floating_point():
        return torch.equal(a, b)
    return torch.equal(a.reshape(-1).view(torch.uint8), b.reshape(-1).view(torch.uint8))


def tensors_in(value: object) -> Iterator[Tensor]:
    """Every tensor, array and number in nested tuples, lists, mappings, dataclasses and model outputs, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (np.ndarray, float, int)) and not (isinstance(value, np.ndarray) and value.dtype == object):
        yield torch.as_tensor(value)
    elif isinstance(value, Mapping):
        yield from tensors_in(list(value.values()))
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from tensors_in(item)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield from tensors_in([getattr(value, field.name) for field in dataclasses.fields(value)])


def _outputs(call: Callable[[], object], host: nn.Module, device: torch.device) -> list[Tensor]:
    """The tensors a call returns without gradients, as copies a later in-place host cannot overwrite."""
    with random_state_kept(device), buffers_kept(host), torch.no_grad():
        return [tensor.detach().clone() for tensor in tensors_in(call())]
