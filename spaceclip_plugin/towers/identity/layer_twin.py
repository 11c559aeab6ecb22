"""A layer's answer to a few vectors, without the host noticing: no hook fires, no mode and no random number changes.

What an adapter does to a layer is best asked of the layer itself: every kind of adapter has formulas of its own, and
all of them end in the layer's forward.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import Tensor, nn

from spaceclip_plugin.towers.module_state import random_state_kept

_HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_backward_hooks",
    "_backward_pre_hooks",
)


def twin(module: nn.Module) -> nn.Module:
    """The same module over the same tensors, in eval mode and without hooks; what is set on it stays its own."""
    copied: nn.Module = object.__new__(type(module))
    state = dict(vars(module))
    state.update({name: OrderedDict() for name in _HOOKS if name in state})
    if "_hf_hook" in state:  # offloading replaced the forward by one of the original's
        state.pop("forward", None)
    parts = module._modules.items()
    state["_modules"] = {name: None if part is None else twin(part) for name, part in parts}
    state["training"] = False
    vars(copied).update(state)
    return copied


def answer(layer: Callable[[Tensor], object], inputs: Tensor) -> Tensor:
    """What a twin, or a plain function, gives for `inputs`, in float64.

    Raises:
        Exception: whatever the layer raises; ValueError where it gives no tensor of a row per input.
    """
    with torch.no_grad(), random_state_kept(inputs.device), torch.autocast(inputs.device.type, enabled=False):
        output = layer(inputs)
    if not isinstance(output, Tensor) or len(output) != len(inputs):
        raise ValueError(f"a layer that gives {type(output).__name__}")
    wide = output.detach().reshape(len(inputs), -1)
    return wide.to("cpu" if wide.device.type == "mps" else wide.device, torch.float64)
