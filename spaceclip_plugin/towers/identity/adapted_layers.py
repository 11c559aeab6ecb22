"""Layers that something was added to, and the weights they have in effect.

Adapters are known by structure, not by name: a layer that PEFT wrapped, whatever the method; one linear layer with
thin matrices beside it; a layer with parameters that torch's class does not have. What such a layer does it is asked
itself (`layer_twin`), for every kind has formulas of its own and all end in the layer's answer. Most adapt a linear
map, and a linear map is known by its answers to a few vectors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from spaceclip_plugin.towers.identity.layer_twin import answer, twin
from spaceclip_plugin.towers.identity.resting_weights import readable

THIN = 4
"""A matrix is thin where its shorter side is at most this part of the tower's width: those of LoRA are, and no
layer's own."""

Holders = tuple[tuple[str, nn.Module], ...]
"""A module with those around it, outermost first, each with its name inside the one before."""

Layer = Callable[[Tensor], object]


@dataclass(frozen=True, eq=False)
class AdaptedLayer:
    """A layer with something added.

    Attributes:
        module: the layer as the host calls it.
        base: where the layer alone is; the last one of it is `module` itself where parameters were added to its class.
    """

    module: nn.Module
    base: Holders

    @property
    def kind(self) -> str:
        """Class of the layer, for people."""
        return type(self.module).__name__

    @property
    def plain(self) -> nn.Module:
        """The layer alone."""
        return self.base[-1][1]

    @property
    def merged(self) -> bool:
        """Whether what was added is part of the layer's own weights by now."""
        return bool(getattr(self.module, "merged", False))

    @property
    def disabled(self) -> bool:
        """Whether it is switched off. One that is merged, too, takes itself out of the weights when it runs."""
        return getattr(self.module, "disable_adapters", False) is True

    def effect(self) -> float:
        """How far its answers are from those of the layer alone, relative to these.

        Raises:
            Exception: whatever a foreign layer raises when it is asked alone; ValueError where it cannot be.
        """
        at = next(index for index, (_, part) in enumerate(self.base) if part is self.module)
        check_readable(self.base[: at + 1])  # asking a sharded layer would wait for the other processes
        vectors = _probes(_columns(self.plain))
        return relative(self._answer(vectors), self._answer_alone(vectors))

    def change(self) -> Tensor | None:
        """What PEFT would add to a matrix of a layer that cannot be asked alone; None where it can, or PEFT is silent.

        An attention layer takes more than one tensor, an embedding indices.
        """
        told = getattr(self.module, "get_delta_weight", None)
        if is_linear(self.plain) or is_norm(self.plain) or not callable(told):
            return None
        at = next(index for index, (_, part) in enumerate(self.base) if part is self.module)
        check_readable(self.base[: at + 1])
        factors = [self.module._modules.get(name) for name in ("lora_A", "lora_embedding_A")]
        known = {name for kept in factors if kept is not None and not self.disabled for name in _names(kept)}
        names = [name for name in getattr(self.module, "active_adapters", ()) if name in known]
        with torch.no_grad():
            changes: list[Tensor] = [told(name).detach() for name in names]
        return torch.stack(changes).sum(dim=0) if changes else torch.zeros(1, 1)

    def products(self, vectors: Tensor) -> Tensor:
        """Vectors (n, columns) times the matrix in effect, (n, rows) in float64; raises as `effect` does."""
        answers = self._answer(torch.cat([vectors, torch.zeros_like(vectors[:1])]))
        return answers[:-1] - answers[-1:]

    def bias(self) -> Tensor:
        """The bias in effect, (rows,); raises as `effect` does."""
        return self._answer(torch.zeros(1, _columns(self.plain)))[0]

    def scale(self) -> Tensor:
        """The scale in effect of a norm, (channels,); raises as `effect` does."""
        signs = 1.0 - 2.0 * (torch.arange(_columns(self.plain)) % 2)  # mean 0 and variance 1: a norm leaves it be
        return self.products(signs[None])[0] * signs.to(self._weight.device, torch.float64)

    @property
    def _weight(self) -> Tensor:
        weight = readable(self.base, "weight")
        if weight is None or not (is_linear(self.plain) or is_norm(self.plain)):
            raise ValueError(f"a {type(self.plain).__name__} that cannot be asked alone")
        return weight

    def _answer(self, vectors: Tensor) -> Tensor:
        return answer(twin(self.module), self._inputs(vectors))

    def _answer_alone(self, vectors: Tensor) -> Tensor:
        if self.plain is not self.module:
            return answer(twin(self.plain), self._inputs(vectors))
        weight, bias, shape = self._weight, self.plain._parameters.get("bias"), self._weight.shape
        if isinstance(self.plain, nn.LayerNorm):
            eps = self.plain.eps
            return answer(lambda x: functional.layer_norm(x, shape, weight, bias, eps), self._inputs(vectors))
        return answer(lambda x: functional.linear(x, weight, bias), self._inputs(vectors))

    def _inputs(self, vectors: Tensor) -> Tensor:
        """Vectors as the layer takes them."""
        shaped = vectors.reshape(-1, *self._weight.shape[1:]) if isinstance(self.plain, nn.Conv2d) else vectors
        return shaped.to(self._weight.device, self._weight.dtype)


def adapted_layer(holders: Holders, width: int, *, in_block: bool = True) -> AdaptedLayer | None:
    """The layer that the last of `holders` is, if something was added to it.

    Args:
        holders: the module and those around it.
        width: of the tower there.
        in_block: whether thin matrices beside a linear layer are none of the tower's own: an embedding has positions.
    """
    module = holders[-1][1]
    if any(cls.__name__ == "BaseTunerLayer" for cls in type(module).__mro__):
        base = holders
        while isinstance(inner := base[-1][1]._modules.get("base_layer"), nn.Module):
            base = (*base, ("base_layer", inner))
        return AdaptedLayer(module, base)
    if isinstance(module, nn.Linear | nn.LayerNorm):
        own = {name for name, value in module._parameters.items() if value is not None}
        return AdaptedLayer(module, holders) if own - {"weight", "bias"} and "weight" in own else None
    linear = _one_linear(module, width) if in_block else None
    return None if linear is None else AdaptedLayer(module, (*holders, *linear))


def check_readable(holders: Holders) -> None:
    """Raise UnreadableError unless every parameter below the last of `holders` is at hand in this process."""
    module = holders[-1][1]
    for name in module._parameters:
        readable(holders, name)
    for name, child in module.named_children():
        check_readable((*holders, (name, child)))


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


def _probes(columns: int) -> Tensor:
    """Four vectors of signs, the same every time, and zero."""
    steps = torch.arange(columns)
    rows = [1.0 - 2.0 * ((steps * steps // (5 + row) + steps * (row + 1)) % 2) for row in range(4)]
    return torch.stack([*rows, torch.zeros(columns)])


def _names(kept: nn.Module) -> Iterator[str]:
    """Adapters that a dict of modules or of parameters is for."""
    yield from kept._modules
    yield from kept._parameters


def _columns(layer: nn.Module) -> int:
    """Numbers that a layer takes at once."""
    weight = layer._parameters.get("weight")
    if weight is None:
        raise ValueError(f"a {type(layer).__name__} without a weight of its own")
    return math.prod(weight.shape[1:]) if weight.ndim > 1 else len(weight)


def _one_linear(module: nn.Module, width: int) -> Holders | None:
    """The way to the only linear layer in a module whose other matrices are all thin, and at least one of them is."""
    if not module._modules or len(module._modules) > 8:
        return None
    linears = [
        (path, part)
        for path, part in module.named_modules()
        if path and isinstance(part, nn.Linear) and not is_thin(tuple(part.weight.shape), width)
    ]
    if len(linears) != 1 or any(is_norm(part) for part in module.modules()):
        return None
    [(path, _)] = linears
    others = [value for name, value in module.named_parameters() if name.rpartition(".")[0] != path and value.ndim >= 2]
    if not others or not all(is_thin(tuple(value.shape), width) for value in others):
        return None
    steps: list[tuple[str, nn.Module]] = []
    for name in path.split("."):
        steps.append((name, (steps[-1][1] if steps else module).get_submodule(name)))
    return tuple(steps)
