"""A weight as it is, wherever it rests: on a device, offloaded, in one process; or why it cannot be read here.

Nothing is moved, gathered or computed: a sharded weight would take a call that every process must make, and one that
attaches alone would wait for ever.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn


class UnreadableError(Exception):
    """A weight cannot be read here; the message says why, for the inside of a sentence."""


def readable(holders: Sequence[tuple[str, nn.Module]], name: str) -> Tensor | None:
    """The weight of that name of the innermost module, or None where it has none.

    Args:
        holders: the module and those around it, outermost first, each with its name inside the one before.
        name: of the weight ("weight", "bias").

    Raises:
        UnreadableError: there is one, and it is sharded, quantised, or on no device.
    """
    module = holders[-1][1]
    weight: Tensor | None = module._parameters.get(name)
    if weight is None:
        weight = vars(module).get(name)
        if not isinstance(weight, Tensor):
            return None
        # torch's older weight norm and its pruning leave the computed weight there
        if not {f"{name}_g", f"{name}_orig"} & module._parameters.keys():
            raise UnreadableError("its weights are flattened and sharded (FSDP)")
    if getattr(weight, "_fsdp_flattened", False):
        raise UnreadableError("its weights are flattened and sharded (FSDP)")
    kind = type(weight)
    if kind.__name__ == "DTensor":
        return _whole(weight)
    if kind.__torch_dispatch__ is not Tensor.__torch_dispatch__:
        raise UnreadableError(f"its weights are kept as {kind.__name__}")
    if weight.is_meta:
        return _checked(_offloaded(holders, name))
    return _checked(weight)


def is_quantised(module: nn.Module) -> bool:
    """Whether matrices of the module's own are kept as integers or in 8 bits."""
    if "quantized" in type(module).__module__.split("."):  # torch's own keep them out of sight
        return True
    own = [*module._parameters.values(), *module._buffers.values()]
    return any(
        value is not None and value.ndim >= 2 and type(value).__name__ != "DTensor" and _is_packed(value, module)
        for value in own
    )


def _is_packed(value: Tensor, module: nn.Module) -> bool:
    """Integer matrices beside no floating weight, or floating numbers of 8 bits; positions are integers, too."""
    if value.is_floating_point():
        return value.dtype.itemsize == 1
    linear = isinstance(module, nn.Linear) or hasattr(module, "in_features")
    return linear and value.dtype in (torch.int8, torch.uint8, torch.int16, torch.int32)


def _checked(weight: Tensor | None) -> Tensor:
    if weight is None:
        raise UnreadableError("its weights are on the meta device, and nothing says where they rest")
    if not weight.is_floating_point() or weight.dtype.itemsize == 1:
        raise UnreadableError(f"its weights are quantised ({str(weight.dtype).removeprefix('torch.')})")
    if weight.numel() == 0 or weight.untyped_storage().nbytes() == 0:
        raise UnreadableError("this process holds no data of its weights (sharded?)")
    return weight


def _whole(weight: Tensor) -> Tensor:
    """A distributed tensor of which this process holds everything."""
    local = getattr(weight, "_local_tensor", None)
    if not isinstance(local, Tensor) or local.shape != weight.shape:
        raise UnreadableError("its weights are sharded over several processes")
    if any(type(placement).__name__ == "Partial" for placement in getattr(weight, "placements", ())):
        raise UnreadableError("its weights are sums over several processes")
    return _checked(local)


def _offloaded(holders: Sequence[tuple[str, nn.Module]], name: str) -> Tensor | None:
    """The weight in the map that a hook of accelerate loads it from before a forward; None where there is none."""
    path = name
    for step, module in reversed(holders):
        for weights in _maps(getattr(module, "_hf_hook", None)):
            try:
                found = weights[path]
            except KeyError:
                continue
            return found if isinstance(found, Tensor) and not found.is_meta else None
        path = f"{step}.{path}"
    return None


def _maps(hook: object) -> Iterator[Mapping[str, Tensor]]:
    """The maps of a hook, and of the hooks it is made of."""
    if (weights := getattr(hook, "weights_map", None)) is not None:
        yield weights
    for part in getattr(hook, "hooks", ()):
        yield from _maps(part)
