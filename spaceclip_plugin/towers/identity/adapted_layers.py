"""Layers that something was added to, known by structure and not by name, and the weights they have in effect.

Every method has formulas of its own, so a twin of the layer is asked: a few answers tell a linear map.
"""

from __future__ import annotations

import math
import re
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from spaceclip_plugin.towers.identity.resting_weights import RestingWeights
from spaceclip_plugin.towers.module_state import random_state_kept

# A matrix is thin where its shorter side is at most this part of the tower's width: LoRA's are, and no layer's own.
THIN = 4
_MAX_PARTS = 8  # of a layer with matrices beside it
_HOOKS = re.compile(r"_(forward|backward)_(pre_)?hooks\w*")


@dataclass(frozen=True, eq=False)
class AdaptedLayer:
    """A layer with something added; asking it raises what a foreign layer raises, and ValueError where it cannot be."""

    module: nn.Module  # as the host calls it
    plain: nn.Module  # the layer alone; `module` itself where parameters were added to its class
    weights: RestingWeights

    @property
    def merged(self) -> bool:
        """Whether what was added is part of the layer's own weights by now."""
        return bool(getattr(self.module, "merged", False))

    @property
    def disabled(self) -> bool:
        """Whether it is switched off. One that is merged, too, takes itself out of the weights when it runs."""
        return getattr(self.module, "disable_adapters", False) is True

    def effect(self) -> float:
        """How far its answers are from those of the layer alone, relative to these."""
        self.weights.check(self.module)  # asking a sharded layer would wait for the other processes
        columns = self._columns()
        steps = torch.arange(columns)
        signs = [1.0 - 2.0 * ((steps * steps // (5 + row) + steps * (row + 1)) % 2) for row in range(4)]
        vectors = torch.stack([*signs, torch.zeros(columns)])
        return relative(self._answer(vectors), self._answer_alone(vectors))

    def change(self) -> Tensor | None:
        """What PEFT adds to a matrix of a layer that cannot be asked alone; None where it can, or PEFT is silent."""
        # An attention layer takes more than one tensor, an embedding indices.
        told = getattr(self.module, "get_delta_weight", None)
        if is_linear(self.plain) or is_norm(self.plain) or not callable(told):
            return None
        self.weights.check(self.module)
        kept = [self.module._modules.get(name) for name in ("lora_A", "lora_embedding_A")]
        known = {name for factors in kept if factors is not None for name in (*factors._modules, *factors._parameters)}
        names = [name for name in getattr(self.module, "active_adapters", ()) if name in known and not self.disabled]
        with torch.no_grad():
            changes: list[Tensor] = [told(name).detach() for name in names]
        return torch.stack(changes).sum(dim=0) if changes else torch.zeros(1, 1)

    def products(self, vectors: Tensor) -> Tensor:
        """Vectors (n, columns) times the matrix in effect, (n, rows) in float64."""
        answers = self._answer(torch.cat([vectors, torch.zeros_like(vectors[:1])]))
        return answers[:-1] - answers[-1:]

    def bias(self) -> Tensor:
        """The bias in effect, (rows,)."""
        return self._answer(torch.zeros(1, self._columns()))[0]

    def scale(self) -> Tensor:
        """The scale in effect of a norm, (channels,)."""
        signs = 1.0 - 2.0 * (torch.arange(self._columns()) % 2)  # mean 0 and variance 1: a norm leaves it be
        return self.products(signs[None])[0] * signs.to(self._weight.device, torch.float64)

    @property
    def _weight(self) -> Tensor:
        weight = self.weights.read(self.plain, "weight")
        if weight is None or not (is_linear(self.plain) or is_norm(self.plain)):
            raise ValueError(f"a {type(self.plain).__name__} that cannot be asked alone")
        return weight

    def _columns(self) -> int:
        """Numbers that the layer takes at once."""
        weight = self.plain._parameters.get("weight")
        if weight is None:
            raise ValueError(f"a {type(self.plain).__name__} without a weight of its own")
        return math.prod(weight.shape[1:]) if weight.ndim > 1 else len(weight)

    def _answer(self, vectors: Tensor) -> Tensor:
        return _answer(twin(self.module), self._inputs(vectors))

    def _answer_alone(self, vectors: Tensor) -> Tensor:
        inputs = self._inputs(vectors)
        if self.plain is not self.module:
            return _answer(twin(self.plain), inputs)
        weight, bias = self._weight, self.plain._parameters.get("bias")
        if isinstance(self.plain, nn.LayerNorm):
            eps = self.plain.eps
            return _answer(lambda x: functional.layer_norm(x, weight.shape, weight, bias, eps), inputs)
        return _answer(lambda x: functional.linear(x, weight, bias), inputs)

    def _inputs(self, vectors: Tensor) -> Tensor:
        """Vectors as the layer takes them."""
        shaped = vectors.reshape(-1, *self._weight.shape[1:]) if isinstance(self.plain, nn.Conv2d) else vectors
        return shaped.to(self._weight.device, self._weight.dtype)


def adapted_layer(module: nn.Module, width: int, weights: RestingWeights, *, in_block: bool) -> AdaptedLayer | None:
    """The layer that a module of a tower of that width is, if something was added to it."""
    if any(cls.__name__ == "BaseTunerLayer" for cls in type(module).__mro__):
        plain = module
        while isinstance(inner := plain._modules.get("base_layer"), nn.Module):
            plain = inner
        return AdaptedLayer(module, plain, weights)
    if isinstance(module, nn.Linear | nn.LayerNorm):
        own = {name for name, value in module._parameters.items() if value is not None}
        return AdaptedLayer(module, module, weights) if own - {"weight", "bias"} and "weight" in own else None
    linear = _only_linear(module, width) if in_block else None  # elsewhere, positions are thin and the tower's own
    return None if linear is None else AdaptedLayer(module, linear, weights)


def is_linear(module: nn.Module) -> bool:
    """Whether this is a linear map that takes one tensor, and a bias."""
    return isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1)


def is_norm(module: nn.Module) -> bool:
    """Whether this normalises the last axis by a scale and a shift per channel, by its class's name."""
    weight = module._parameters.get("weight")
    return "norm" in type(module).__name__.lower() and weight is not None and weight.ndim == 1


def is_thin(shape: tuple[int, ...], width: int) -> bool:
    """Whether a matrix of this shape is a factor rather than a layer's weight; see `THIN`."""
    return len(shape) >= 2 and min(shape[0], math.prod(shape[1:])) * THIN <= width


def relative(changed: Tensor, original: Tensor) -> float:
    """Distance of two tensors relative to the norm of the second; infinity from zero."""
    moved = float(torch.linalg.vector_norm(changed - original, dtype=torch.float64))
    norm = float(torch.linalg.vector_norm(original, dtype=torch.float64))
    return 0.0 if moved == 0 else moved / norm if norm > 0 else math.inf


def twin(module: nn.Module) -> nn.Module:
    """The same module over the same tensors, in eval mode and without hooks; what is set on it stays its own."""
    copied: nn.Module = object.__new__(type(module))
    state = dict(vars(module))
    state.update({name: OrderedDict() for name in state if _HOOKS.fullmatch(name)})
    if "_hf_hook" in state:  # offloading replaced the forward by one of the original's
        state.pop("forward", None)
    parts = module._modules.items()
    state["_modules"] = {name: None if part is None else twin(part) for name, part in parts}
    state["training"] = False
    vars(copied).update(state)
    return copied


def _answer(layer: Callable[[Tensor], object], inputs: Tensor) -> Tensor:
    """What a twin, or a plain function, gives for `inputs`, in float64."""
    with torch.no_grad(), random_state_kept(inputs.device), torch.autocast(inputs.device.type, enabled=False):
        output = layer(inputs)
    if not isinstance(output, Tensor) or len(output) != len(inputs):
        raise ValueError(f"a layer that gives {type(output).__name__}")
    wide = output.detach().reshape(len(inputs), -1)
    return wide.to("cpu" if wide.device.type == "mps" else wide.device, torch.float64)


def _only_linear(module: nn.Module, width: int) -> nn.Module | None:
    """The only linear layer in a module whose other matrices are all thin, and at least one of them is."""
    if not 0 < len(module._modules) <= _MAX_PARTS or any(is_norm(part) for part in module.modules()):
        return None
    linears = [
        part
        for part in module.modules()
        if part is not module and isinstance(part, nn.Linear) and not is_thin(tuple(part.weight.shape), width)
    ]
    if len(linears) != 1:
        return None
    own = {id(value) for value in linears[0]._parameters.values()}
    others = [value for value in module.parameters() if id(value) not in own and value.ndim >= 2]
    thin = bool(others) and all(is_thin(tuple(value.shape), width) for value in others)
    return linears[0] if thin else None
