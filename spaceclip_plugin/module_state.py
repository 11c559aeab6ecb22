"""Leaving modules and randomness as they were."""

from __future__ import annotations

import functools
import random
from collections.abc import Iterator
from contextlib import contextmanager
from types import MethodType
from typing import TypeVar, cast

import numpy as np
import torch
from torch import nn

M = TypeVar("M", bound=nn.Module)


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


def eval_twin(module: M, twins: dict[nn.Module, nn.Module] | None = None) -> M:
    """The module in eval mode, while it stays itself in whatever mode it is: other threads may train or run it.

    Every part is another object that shares the part's parameters, buffers and hooks, so that it follows what becomes
    of the weights (steps of an optimizer, moves, `load_state_dict` with `assign=True`), and holds nothing but a mode of
    its own. It is made for one use, which costs no more than asking every part for its mode: parts that are added or
    replaced later are not seen.

    A module that is compiled and in eval mode is its own twin, for its code is bound to it; one that is compiled and in
    train mode has a twin that is not compiled.

    Args:
        module: with all its parts.
        twins: filled with the twin of every part.
    """
    parts = list(module.modules())
    made = {} if twins is None else twins
    if any(map(_is_compiled, parts)) and not any(part.training for part in parts):
        made.update(zip(parts, parts, strict=True))
        return module
    made.update((part, object.__new__(type(part))) for part in parts)
    for part in parts:
        if "_orig_mod" in part._modules and _is_compiled(part):
            made[part] = made[part._modules["_orig_mod"]]  # type: ignore[index]
    for part in parts:
        if type(made[part]) is type(part):
            state = {name: _rebound(value, made) for name, value in vars(part).items()}
            children = {name: child if child is None else made[child] for name, child in part._modules.items()}
            if _is_compiled(part):
                state["_compiled_call_impl"] = None  # bound to the part itself
            vars(made[part]).update(state, training=False, _modules=type(part._modules)(children))
    return cast(M, made[module])


def _is_compiled(part: nn.Module) -> bool:
    return getattr(part, "_compiled_call_impl", None) is not None or type(part).__name__ == "OptimizedModule"


def _rebound(value: object, twins: dict[nn.Module, nn.Module]) -> object:
    """An attribute of a twin: methods that libraries put there when they wrap `forward` become those of twins."""
    if isinstance(value, MethodType) and isinstance(value.__self__, nn.Module):
        return MethodType(value.__func__, twins.get(value.__self__, value.__self__))
    if isinstance(value, functools.partial):
        args = [twins.get(arg, arg) if isinstance(arg, nn.Module) else arg for arg in value.args]
        return functools.partial(value.func, *args, **value.keywords)
    return value


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
