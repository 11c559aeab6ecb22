"""Compiled hosts: having torch.compile notice taps that come and go, and nothing else of the process.

Compiled code does not look at hooks again, but since torch 2.5 at whether a module has a `forward` of its own. A module
with taps is given that of its class as its own: code made without is refused for it alone, until the taps are gone.
"""

from __future__ import annotations

import functools
import logging
import sys
import types
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

# Chosen here and not at each call, so that a compiled block sees a constant; torch 2.2 has only the second.
is_compiling = getattr(torch.compiler, "is_compiling", None) or torch._utils.is_compiling

_logger = logging.getLogger(__name__)


def _exporting_flag() -> bool:
    return torch.compiler._is_exporting_flag


# Whether torch.export is at work. Compiled code must read the flag: from torch 2.7 to 2.11 at least, dynamo takes the
# question `torch.compiler.is_exporting()` for True wherever it compiles. Versions before have neither.
_ask: Callable[[], bool] = getattr(torch.compiler, "is_exporting", None) or (lambda: False)
is_exporting = _exporting_flag if hasattr(torch.compiler, "_is_exporting_flag") else _ask


def taps_came(modules: Iterable[nn.Module]) -> None:
    """Have code refused for these modules that was compiled without their new hooks; nothing if there is no code."""
    dynamo = _dynamo_at_work()
    if dynamo is None:
        return
    if not _looks_at_forward(dynamo):
        _logger.warning(
            "torch %s does not notice hooks that come and go: every compiled function of this process is compiled "
            "again on its next call, and once more after closing; torch 2.5 and later spare all but the host",
            torch.__version__,
        )
        torch.compiler.reset()
        return
    _make_room(dynamo)
    for module in modules:
        own = module.__dict__.get("forward")
        if not _is_mark(own, module) and not isinstance(module, torch.jit.ScriptModule):
            module.__dict__["forward"] = _mark(module, own)


def taps_left(modules: Iterable[nn.Module], *, still_tapped: Callable[[nn.Module], bool]) -> None:
    """Have code that was compiled with hooks now gone refused, and that from before them taken up again."""
    for module in modules:
        own = module.__dict__.get("forward")
        if _is_mark(own, module) and not still_tapped(module):
            if isinstance(own, functools.partial):
                module.__dict__["forward"] = own.of_taps  # type: ignore[attr-defined]
            else:
                del module.__dict__["forward"]
    dynamo = _dynamo_at_work()
    if dynamo is not None and not _looks_at_forward(dynamo):
        torch.compiler.reset()


def _mark(module: nn.Module, own: Any) -> Any:
    """A `forward` that does what the module's does, and is another."""
    if own is None:
        return types.MethodType(type(module).forward, module)
    mark = functools.partial(own)  # of a partial, this has another `func`
    mark.of_taps = own  # type: ignore[attr-defined]
    return mark


def _is_mark(own: Any, module: nn.Module) -> bool:
    if isinstance(own, types.MethodType):
        return own.__self__ is module and own.__func__ is type(module).forward
    return isinstance(own, functools.partial) and hasattr(own, "of_taps")


def _dynamo_at_work() -> Any:
    """`torch._dynamo` where it has looked at any code, else None."""
    dynamo = sys.modules.get("torch._dynamo")  # not imported: nothing was ever compiled
    return dynamo if dynamo is not None and dynamo.utils.counters["frames"]["total"] else None


def _looks_at_forward(dynamo: Any) -> bool:
    if not hasattr(dynamo.variables.nn_module, "guard_to_detect_forward_monkeypatching"):
        return False
    with warnings.catch_warnings():  # newer versions always do, and warn of who asks
        warnings.simplefilter("ignore")
        return bool(getattr(dynamo.config, "inline_inbuilt_nn_modules", True))


def _make_room(dynamo: Any) -> None:
    """Drop code made with taps, which up to torch 2.6 serves one attachment only, before dynamo stops compiling.

    It does so once a function was compiled `recompile_limit` times. Other modules of its class lose theirs with it.
    """
    eval_frame: Any = torch._C._dynamo.eval_frame
    limit = getattr(dynamo.config, "recompile_limit", None) or dynamo.config.cache_size_limit
    for reference in list(dynamo.convert_frame.input_codes.seen):
        code = reference()
        entries = [] if code is None else eval_frame._debug_get_cache_entry_list(code)
        # The guards of code made with taps name our hooks.
        if len(entries) > limit - 2 and any("spaceclip_plugin.attach." in str(one.guard_manager) for one in entries):
            eval_frame.reset_code(code)
