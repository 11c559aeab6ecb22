"""Does a host give the same bits with its taps as without? Measured, not assumed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class VerifyReport:
    """What `verify` found.

    Attributes:
        identical: every output tensor was the same, bit for bit, with the taps as without.
        max_abs_difference: largest absolute difference of any output element; NaN against NaN counts as equal.
        tensors: how many output tensors were compared.
        frames: image calls the taps recorded in the run.
    """

    identical: bool
    max_abs_difference: float
    tensors: int
    frames: int


def compare(plain: object, tapped: object) -> tuple[bool, float, int]:
    """Whether two outputs are the same bits, their largest absolute difference, and the tensors compared."""
    identical, largest, count = True, 0.0, 0
    first, second = list(tensors_in(plain)), list(tensors_in(tapped))
    if len(first) != len(second):
        return False, float("inf"), max(len(first), len(second))
    for a, b in zip(first, second, strict=True):
        count += 1
        if a.shape != b.shape or a.dtype != b.dtype:
            return False, float("inf"), count
        if not same_bits(a, b):
            identical = False
            difference = (a.to(torch.float64) - b.to(torch.float64)).abs()
            largest = max(largest, float(difference.nan_to_num(0.0).max()))
    return identical, largest, count


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Equality of representation: NaN equals NaN of the same bits, and +0 differs from -0."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if a.numel() == 0 or not a.is_floating_point():
        return torch.equal(a, b)
    return torch.equal(a.reshape(-1).view(torch.uint8), b.reshape(-1).view(torch.uint8))


def tensors_in(value: object) -> Iterator[Tensor]:
    """Every tensor in nested tuples, lists, mappings and model outputs, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors_in(item)
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from tensors_in(item)


@contextmanager
def random_state_kept(device: torch.device) -> Iterator[None]:
    """Restores the random state on leaving, so that two runs draw the same numbers and the caller's go on."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        yield


@contextmanager
def buffers_kept(host: nn.Module) -> Iterator[None]:
    """Restores the host's buffers on leaving: a host in train mode updates its running statistics."""
    saved: list[tuple[Tensor, Tensor]] = [(b, b.clone()) for b in host.buffers()] if host.training else []
    try:
        yield
    finally:
        for buffer, value in saved:
            buffer.data.copy_(value)


def run(host: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> object:
    """One forward without gradients, with outputs that a later in-place host cannot overwrite."""
    with torch.no_grad():
        return _cloned(host(*args, **kwargs))


def _cloned(value: object) -> list[Tensor]:
    return [tensor.detach().clone() for tensor in tensors_in(value)]
