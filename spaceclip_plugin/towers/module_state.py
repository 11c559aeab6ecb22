"""Leaving modules and randomness as they were."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn


@contextmanager
def in_eval_mode(module: nn.Module) -> Iterator[None]:
    """Eval mode inside; afterwards every part that was in train mode is again."""
    in_training = [part for part in module.modules() if part.training]
    if not in_training:  # setting the mode of every part takes as long as a layer of a small head
        yield
        return
    module.eval()
    try:
        yield
    finally:
        for part in in_training:
            part.training = True


@contextmanager
def buffers_kept(module: nn.Module) -> Iterator[None]:
    """Restores every buffer on leaving: a part in train mode updates its running statistics."""
    saved = [(buffer, buffer.clone()) for buffer in module.buffers() if not buffer.is_meta]
    try:
        yield
    finally:
        for buffer, value in saved:
            buffer.data.copy_(value)


@contextmanager
def random_state_kept(device: torch.device) -> Iterator[None]:
    """Restores the random states on leaving (torch's, numpy's and Python's): two runs draw the same numbers."""
    numpy_state, python_state = np.random.get_state(), random.getstate()  # noqa: NPY002 - the host's, not ours
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            yield
    finally:
        np.random.set_state(numpy_state)  # noqa: NPY002
        random.setstate(python_state)
