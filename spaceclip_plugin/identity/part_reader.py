"""The weights a tower computes with, part by part: what adapters add is in them, however it is added.

Three kinds are kept apart, for the ones in a norm would hide a bias that moved: matrices, scales (of norms and layers,
and tokens), and biases. A layer with an adapter counts with the weights that it has in effect, a parametrized weight
with what is computed, a module of which PEFT keeps a trained copy with the copy in use.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from spaceclip_plugin.identity.adapted_layers import AdaptedLayer, Holders, adapted_layer, is_linear, is_thin, relative
from spaceclip_plugin.identity.layer_twin import twin
from spaceclip_plugin.identity.resting_weights import UnreadableError, is_quantised, readable
from spaceclip_plugin.identity.weight_sketch import Sketch, SketchMaker

MATRICES, SCALES, BIASES = KINDS = ("matrices", "scales", "biases")


@dataclass(frozen=True)
class Addition:
    """Something that was added to a layer.

    Attributes:
        kind: class of the layer, for people.
        effect: how far the layer's answers are from those it would give alone, relative to these; None: not known.
        counted: whether the weights that were read are those with it.
    """

    kind: str
    effect: float | None
    counted: bool = True


class PartReader:
    """Sums up the weights of one part of a tower, and notes what was added to its layers."""

    def __init__(self, width: int, *, sketching: bool = True) -> None:
        """`width` of the tower there; without `sketching`, no weight is read and additions alone are looked for."""
        self.additions: list[Addition] = []
        self._width = width
        self._sketching = sketching
        self._makers: dict[str, SketchMaker] = {}
        self._seen: set[int] = set()
        self._thin: dict[str, list[Tensor]] = {}
        self._sides: set[int] = set()

    @property
    def keys(self) -> list[str]:
        """What `sketch` can be asked for."""
        return sorted(self._makers)

    def sketch(self, key: str) -> Sketch:
        """Of the weights of a kind, or of the matrices of one shape ("ROWSxCOLUMNS") where they were told apart.

        Raises:
            UnreadableError: one is not finite.
        """
        try:
            return self._makers.get(key, SketchMaker(self._width)).sketch
        except ValueError as error:
            raise UnreadableError(f"one of its weights {error}") from error

    def read(self, holders: Holders, *, by_shape: bool = False) -> None:
        """Add everything below the last of `holders`; matrices of other shapes apart if `by_shape`.

        Raises:
            UnreadableError: a weight cannot be read here, or what a layer does cannot be told.
        """
        module = holders[-1][1]
        if id(module) in self._seen:  # shared by two places
            return
        self._seen.add(id(module))
        if (layer := adapted_layer(holders, self._width)) is not None:
            self._adapted(layer, by_shape)
            return
        copies = module._modules.get("modules_to_save")
        if isinstance(copies, nn.Module) and isinstance(module._modules.get("original_module"), nn.Module):
            self.read((*holders, ("", self._copy_in_use(module))), by_shape=by_shape)
            return
        if self._sketching and is_quantised(module):
            raise UnreadableError(f"its weights are quantised ({type(module).__name__})")
        for name in own_weights(module):
            self.add(holders, name, by_shape=by_shape)
        for name, child in module.named_children():
            if name != "parametrizations" or not parametrize.is_parametrized(module):
                self.read((*holders, (name, child)), by_shape=by_shape)

    def add(self, holders: Holders, name: str, *, by_shape: bool = False) -> None:
        """Add one weight of the last of `holders`.

        Raises:
            UnreadableError: it cannot be read here.
        """
        module = holders[-1][1]
        if parametrize.is_parametrized(module, name):
            weight: Tensor | None = self._computed(module, name)
        else:
            weight = readable(holders, name)
        if weight is not None:
            self._add(holders, name, weight, by_shape)

    def finish(self) -> None:
        """Note thin matrices that fit the layers' sides: adapters beside the layers. Call it when all is read.

        A table of relative positions is thin, too, but neither side of it is a layer's.
        """
        for factors in self._thin.values():
            fitting = [factor for factor in factors if max(factor.shape[0], factor[0].numel()) in self._sides]
            if fitting:
                still = any(not factor.is_meta and not factor.any() for factor in fitting)  # a factor that is zero
                self.additions.append(Addition("thin matrices", 0.0 if still else None, counted=False))

    def _add(self, holders: Holders, name: str, weight: Tensor, by_shape: bool) -> None:
        shape = tuple(side for side in weight.shape if side != 1) or (1,)
        if len(shape) >= 2 and not by_shape and is_thin(shape, self._width):
            place = ".".join(step for step, _ in holders[:-1])
            self._thin.setdefault(place, []).append(weight.detach())
            return
        if len(shape) >= 2:
            self._sides |= {shape[0], weight.numel() // shape[0]}
        if self._sketching:
            self._maker(name, shape, by_shape).add(weight.detach().reshape(shape[0], -1) if len(shape) > 1 else
                                                   weight.detach().reshape(-1))  # fmt: skip

    def _maker(self, name: str, shape: tuple[int, ...], by_shape: bool) -> SketchMaker:
        if len(shape) == 1:
            key = BIASES if name.endswith(("bias", "beta")) else SCALES
        else:
            key = f"{shape[0]}x{torch.Size(shape[1:]).numel()}" if by_shape else MATRICES
        return self._makers.setdefault(key, SketchMaker(self._width))

    def _computed(self, module: nn.Module, name: str) -> Tensor:
        """A parametrized weight; an addition where it is not what was parametrized."""
        still = twin(module)  # in eval mode: spectral norm, for one, iterates whenever it is asked in training
        with torch.no_grad():
            weight: Tensor = getattr(still, name)
        original = module.get_submodule(f"parametrizations.{name}")._parameters.get("original")
        if original is not None and original.shape == weight.shape and not original.is_meta:
            self.additions.append(Addition(f"parametrized {name}", relative(weight, original.detach())))
        return weight

    def _copy_in_use(self, module: nn.Module) -> nn.Module:
        """The module itself or PEFT's trained copy of it."""
        original, copies = module.get_submodule("original_module"), module.get_submodule("modules_to_save")
        names = getattr(module, "active_adapters", ())
        active = [name for name in ([names] if isinstance(names, str) else names) if name in copies._modules]
        if getattr(module, "disable_adapters", False) is True or not active:
            return original
        used = copies.get_submodule(active[-1])
        pairs = zip(used.parameters(), original.parameters(), strict=False)
        effect = max((relative(a.detach(), b.detach()) for a, b in pairs if not b.is_meta), default=0.0)
        self.additions.append(Addition(type(module).__name__, effect))
        return used

    def _adapted(self, layer: AdaptedLayer, by_shape: bool) -> None:
        """A layer counts with what it has in effect; one that is merged has it in its own weights."""
        if layer.merged:
            self.additions.append(Addition(layer.kind, None))
            if layer.disabled and self._sketching:
                raise UnreadableError("adapters are merged into it and disabled; unmerge them")
            self._own(layer, by_shape)
            return
        try:
            effect = layer.effect()
        except Exception as error:  # whatever a foreign layer raises when it is asked alone
            self.additions.append(Addition(layer.kind, None, counted=False))
            if self._sketching:
                reason = f"what the {layer.kind} in it does cannot be told ({type(error).__name__}: {error})"
                raise UnreadableError(reason) from error
            return
        self.additions.append(Addition(layer.kind, effect))
        if effect == 0 or not self._sketching:
            self._own(layer, by_shape)
        else:
            self._in_effect(layer, by_shape)

    def _own(self, layer: AdaptedLayer, by_shape: bool) -> None:
        """The weights of the layer alone."""
        if layer.plain is layer.module:
            for name in ("weight", "bias"):
                self.add(layer.base, name, by_shape=by_shape)
        else:
            self.read(layer.base, by_shape=by_shape)

    def _in_effect(self, layer: AdaptedLayer, by_shape: bool) -> None:
        weight = readable(layer.base, "weight")
        if weight is None:
            raise UnreadableError(f"the {layer.kind} in it has no weight")
        shape = tuple(weight.shape)
        if is_linear(layer.plain):
            maker = self._maker("weight", (shape[0], weight[0].numel()), by_shape)
            maker.add_products(layer.products, weight.detach().reshape(shape[0], -1))
            self._sides |= {shape[0], weight[0].numel()}
        else:
            self._maker("weight", shape, by_shape).add(layer.scale())
        bias = layer.bias()
        if readable(layer.base, "bias") is not None or bias.any():
            self._maker("bias", tuple(bias.shape), by_shape).add(bias)


def own_weights(module: nn.Module) -> Iterable[str]:
    """Names of a module's own parameters, of those that are computed, and of the tensors that took their place."""
    names = [name for name, value in module._parameters.items() if value is not None]
    if parametrize.is_parametrized(module):
        names += list(module.parametrizations)  # type: ignore[arg-type]
    for name in ("weight", "bias", "in_proj_weight", "in_proj_bias"):
        if (
            name not in names
            and name in module._parameters | vars(module)
            and isinstance(vars(module).get(name), Tensor)
        ):
            names = [other for other in names if other not in (f"{name}_g", f"{name}_v")] + [name]
    return names
