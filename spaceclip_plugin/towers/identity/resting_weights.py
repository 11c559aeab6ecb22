"""A weight as it is, wherever it rests, or why it cannot be read here; nothing is moved, gathered or computed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

_FLATTENED = "its weights are flattened and sharded (FSDP)"


class UnreadableError(Exception):
    """A weight cannot be read here; the message says why, for the inside of a sentence."""


class RestingWeights:
    """The weights of a tower and of everything in it."""

    def __init__(self, tower: nn.Module) -> None:
        self._paths: dict[int, str] = {id(part): path for path, part in tower.named_modules()}
        hooks = {path: getattr(part, "_hf_hook", None) for path, part in tower.named_modules()}
        self._maps = {path: list(_maps(hook)) for path, hook in hooks.items() if hook is not None}

    def path(self, module: nn.Module) -> str:
        """Where the module is in the tower; "" where it is the tower, or beside it."""
        return self._paths.get(id(module), "")

    def read(self, module: nn.Module, name: str) -> Tensor | None:
        """A module's weight of that name, or None; UnreadableError where it is sharded, quantised, or on no device."""
        weight: Tensor | None = module._parameters.get(name)
        if weight is None:
            weight = vars(module).get(name)
            if not isinstance(weight, Tensor):
                return None
            # torch's older weight norm and its pruning leave the computed weight there
            if not {f"{name}_g", f"{name}_orig"} & module._parameters.keys():
                raise UnreadableError(_FLATTENED)
        if getattr(weight, "_fsdp_flattened", False):
            raise UnreadableError(_FLATTENED)
        kind = type(weight)
        if kind.__name__ == "DTensor":
            weight = _whole(weight)
        elif kind.__torch_dispatch__ is not Tensor.__torch_dispatch__:
            raise UnreadableError(f"its weights are kept as {kind.__name__}")
        elif weight.is_meta:
            weight = self._offloaded(module, name)
        if not weight.is_floating_point() or weight.dtype.itemsize == 1:
            raise UnreadableError(f"its weights are quantised ({str(weight.dtype).removeprefix('torch.')})")
        if weight.numel() == 0 or weight.untyped_storage().nbytes() == 0:
            raise UnreadableError("this process holds no data of its weights (sharded?)")
        return weight

    def check(self, module: nn.Module) -> None:
        """Raise UnreadableError unless every parameter in the module is at hand in this process."""
        for part in module.modules():
            for name in part._parameters:
                self.read(part, name)

    def _offloaded(self, module: nn.Module, name: str) -> Tensor:
        """The weight in the map that a hook of accelerate, there or further out, loads it from before a forward."""
        holder, key = self.path(module), name
        while True:
            for weights in self._maps.get(holder, ()):
                try:
                    found = weights[key]
                except KeyError:
                    continue
                if isinstance(found, Tensor) and not found.is_meta:
                    return found
            if not holder:
                raise UnreadableError("its weights are on the meta device, and nothing says where they rest")
            holder, _, step = holder.rpartition(".")
            key = f"{step}.{key}"


def is_quantised(module: nn.Module) -> bool:
    """Whether matrices of the module's own are kept as integers or in 8 bits."""
    if "quantized" in type(module).__module__.split("."):  # torch's own keep them out of sight
        return True
    linear = isinstance(module, nn.Linear) or hasattr(module, "in_features")  # integers elsewhere are positions
    packed = (torch.int8, torch.uint8, torch.int16, torch.int32) if linear else ()
    return any(
        value.dtype.itemsize == 1 if value.is_floating_point() else value.dtype in packed
        for value in (*module._parameters.values(), *module._buffers.values())
        if value is not None and value.ndim >= 2 and type(value).__name__ != "DTensor"
    )


def _whole(weight: Tensor) -> Tensor:
    """A distributed tensor that this process holds whole; gathering another would wait for all processes, for ever."""
    local = getattr(weight, "_local_tensor", None)
    if not isinstance(local, Tensor) or local.shape != weight.shape:
        raise UnreadableError("its weights are sharded over several processes")
    if any(type(placement).__name__ == "Partial" for placement in getattr(weight, "placements", ())):
        raise UnreadableError("its weights are sums over several processes")
    return local


def _maps(hook: object) -> Iterator[Mapping[str, Tensor]]:
    """The maps of a hook, and of the hooks it is made of."""
    if (weights := getattr(hook, "weights_map", None)) is not None:
        yield weights
    for part in getattr(hook, "hooks", ()):
        yield from _maps(part)
