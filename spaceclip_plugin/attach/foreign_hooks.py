"""Hooks of others on a tower's blocks: one that returns something takes the place of what the block gave.

Hooks of libraries that move, shard or collect are not meant, nor those that can be seen to return nothing.
"""

from __future__ import annotations

import dis
import functools
from collections.abc import Callable, Iterator
from typing import Any

from torch import nn

_HARMLESS = frozenset({"spaceclip_plugin", "torch", "accelerate", "transformers", "timm", "peft"})


def foreign_hooks(block: nn.Module) -> list[str]:
    """Names of the hooks below a block that may change what it gives, each once."""
    found = (_name(hook) for part in block.modules() for hook in _hooks(part) if _may_change(hook))
    return list(dict.fromkeys(found))


def _hooks(module: nn.Module) -> Iterator[Callable[..., Any]]:
    yield from module._forward_pre_hooks.values()
    yield from module._forward_hooks.values()


def _may_change(hook: Callable[..., Any]) -> bool:
    function = _function(hook)
    package = str(getattr(function, "__module__", None) or "").partition(".")[0]
    return package not in _HARMLESS and not _returns_nothing(function)


def _function(hook: Any) -> Any:
    """The function inside partials, methods and callable objects; a builtin stays what it is."""
    while isinstance(hook, functools.partial):
        hook = hook.func
    hook = getattr(hook, "__func__", hook)
    if hasattr(hook, "__code__") or not callable(hook):
        return hook
    called = type(hook).forward if isinstance(hook, nn.Module) else type(hook).__call__
    return called if hasattr(called, "__code__") else hook


def _returns_nothing(function: Any) -> bool:
    """Whether every return of a function is a plain `return`."""
    code = getattr(function, "__code__", None)
    if code is None:
        return False
    steps = [step for step in dis.get_instructions(code) if step.opname not in ("NOP", "CACHE", "RESUME")]
    returns = [index for index, step in enumerate(steps) if step.opname in ("RETURN_VALUE", "RETURN_CONST")]
    return all(
        steps[i].argval is None if steps[i].opname == "RETURN_CONST"
        else i > 0 and steps[i - 1].opname == "LOAD_CONST" and steps[i - 1].argval is None
        for i in returns
    )  # fmt: skip


def _name(hook: Callable[..., Any]) -> str:
    function = _function(hook)
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", type(hook).__name__)
    return f"{module}.{name}" if module else str(name)
