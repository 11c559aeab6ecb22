"""A module in eval mode beside itself in whatever mode: what one thread decodes with while another trains.

Train and eval mode are attributes of a module's parts, the same for every thread. Switching them and back for a moment
would switch off the dropout of a training step that goes on meanwhile, or switch on that of the decoding.
"""

from __future__ import annotations

import functools
from types import MethodType
from typing import Any, TypeVar, cast

from torch import nn

from spaceclip_plugin.errors import HostError

M = TypeVar("M", bound=nn.Module)


def eval_twin(module: M, twins: dict[nn.Module, nn.Module] | None = None) -> M:
    """The module in eval mode, made of other objects, while it stays in its own.

    Every part of it shares its original's parameters, buffers and hooks, and holds nothing of its own but the mode: it
    follows what becomes of the weights (steps of an optimizer, moves, `load_state_dict` with `assign=True`). It is made
    for one use, at the cost of asking every part for its mode: parts that are added or replaced later are not seen.

    Compiled code belongs to one object: a module in eval mode with compiled parts is its own twin, in train mode its
    twin is not compiled.

    Args:
        module: with all its parts.
        twins: filled with the twin of every part.

    Raises:
        HostError: it is in train mode, and a part's `forward` was replaced by a function that calls the part itself.
    """
    parts = list(module.modules())
    made = {} if twins is None else twins
    fixed = [part for part in parts if _is_compiled(part) or _is_replaced(part)]
    if fixed and not any(part.training for part in parts):
        made.update((part, part) for part in parts)
        return module
    if any(map(_is_replaced, fixed)):
        raise HostError(
            f"a part of this {type(module).__name__} has a forward of its own, and runs in the mode it is in; "
            "put the module in eval mode first: .eval()"
        )
    made.update((part, object.__new__(type(part))) for part in parts)
    for part in fixed:
        if _is_wrapper_of_compiled(part):
            made[part] = made[cast(nn.Module, part._modules["_orig_mod"])]
    for part in parts:
        if not _is_wrapper_of_compiled(part):
            vars(made[part]).update(_state(part, made))
    return cast(M, made[module])


def can_have_twin(module: nn.Module) -> bool:
    """Whether `eval_twin` makes one of a module in train mode."""
    return not any(map(_is_replaced, module.modules()))


def _state(part: nn.Module, twins: dict[nn.Module, nn.Module]) -> dict[str, object]:
    state = {name: _rebound(value, twins) for name, value in vars(part).items()}
    children = {name: None if child is None else twins[child] for name, child in part._modules.items()}
    state.update(training=False, _modules=type(part._modules)(children))
    if _is_compiled(part):
        state["_compiled_call_impl"] = None
    return state


def _rebound(value: Any, twins: dict[nn.Module, nn.Module]) -> Any:
    """An attribute of a part for its twin: methods and partial calls of parts, as libraries put there, are of twins."""
    if isinstance(value, MethodType) and isinstance(value.__self__, nn.Module):
        return MethodType(value.__func__, twins.get(value.__self__, value.__self__))
    if isinstance(value, functools.partial):
        args = [twins.get(arg, arg) if isinstance(arg, nn.Module) else arg for arg in value.args]
        return functools.partial(_rebound(value.func, twins), *args, **value.keywords)
    return value


def _is_replaced(part: nn.Module) -> bool:
    """Whether its forward was replaced by a function in which it is enclosed, where no one can exchange it."""
    own = vars(part).get("forward")
    return not (own is None or isinstance(own, (MethodType, functools.partial)) or _is_wrapper_of_compiled(part))


def _is_compiled(part: nn.Module) -> bool:
    return getattr(part, "_compiled_call_impl", None) is not None or _is_wrapper_of_compiled(part)


def _is_wrapper_of_compiled(part: nn.Module) -> bool:
    """What `torch.compile` makes of a module; its class is not imported, which would take seconds."""
    return type(part).__name__ == "OptimizedModule" and "_orig_mod" in part._modules
