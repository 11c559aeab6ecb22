"""The weights a tower computes with, part by part: what adapters add is in them, however it is added.

Three kinds are kept apart, for the ones in a norm would hide a bias that moved: matrices, scales (of norms and layers,
and tokens), and biases. A layer with an adapter counts with the weights that it has in effect, a parametrized weight
with what is computed, a module of which PEFT keeps a trained copy with the copy in use.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from spaceclip_plugin.towers.identity.adapted_layers import (
    AdaptedLayer,
    Holders,
    adapted_layer,
    check_readable,
    is_linear,
    is_thin,
    relative,
)
from spaceclip_plugin.towers.identity.layer_twin import twin
from spaceclip_plugin.towers.identity.resting_weights import UnreadableError, is_quantised, readable
from spaceclip_plugin.towers.identity.weight_sketch import Sketch, SketchMaker

MATRICES, SCALES, BIASES = KINDS = ("matrices", "scales", "biases")

MOST_EFFECT = 0.001
"""Relative change of a layer's answers up to which what was added to it counts as nothing."""


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
    """Sums up the weights of one part of a tower, and notes what was added to its layers.

    Attributes:
        additions: to its layers, whether they have an effect or not.
        trouble: why a weight could not be read, the first time; None where all were.
        dtypes: of the matrices.
    """

    def __init__(self, width: int, *, sketching: bool = True, plain: bool = False) -> None:
        """Nothing is read yet.

        Args:
            width: of the tower there.
            sketching: whether to sum up weights; else additions alone are looked for.
            plain: whether to leave out of the sums what was added to layers and is not merged.
        """
        self.additions: list[Addition] = []
        self.trouble: str | None = None
        self.dtypes: set[str] = set()
        self._width = width
        self._sketching = sketching
        self._plain = plain
        self._makers: dict[str, SketchMaker] = {}
        self._seen: set[int] = set()
        self._factors: dict[str, list[_Factor]] = {}
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
        """Add everything below the last of `holders`; matrices of other shapes apart if `by_shape`."""
        module = holders[-1][1]
        if id(module) in self._seen:  # shared by two places
            return
        self._seen.add(id(module))
        if (layer := adapted_layer(holders, self._width, in_block=not by_shape)) is not None:
            self._adapted(layer, by_shape)
            return
        if _keeps_copies(module):
            self.read((*holders, ("", self._copy_in_use(holders))), by_shape=by_shape)
            return
        if is_quantised(module):
            self._note(f"its weights are quantised ({type(module).__name__})")
        names = own_weights(module)
        if not by_shape and isinstance(module, nn.Linear) and is_thin(tuple(module.weight.shape), self._width):
            names = ["weight"]  # a bias beside a factor is an adapter's, too
        for name in names:
            self.add(holders, name, by_shape=by_shape)
        for name, child in module.named_children():
            if name != "parametrizations" or not parametrize.is_parametrized(module):
                self.read((*holders, (name, child)), by_shape=by_shape)

    def add(self, holders: Holders, name: str, *, by_shape: bool = False) -> None:
        """Add one weight of the last of `holders`."""
        try:
            if parametrize.is_parametrized(holders[-1][1], name):
                weight: Tensor | None = self._computed(holders, name)
            else:
                weight = readable(holders, name)
            if weight is not None:
                self._add(holders, name, weight, by_shape)
        except UnreadableError as error:
            self._note(str(error))

    def finish(self) -> None:
        """Note thin matrices that fit the layers' sides: adapters beside the layers. Call it when all is read.

        A table of relative positions is thin, too, but neither side of it is a layer's.
        """
        for factors in self._factors.values():
            fitting = [factor for factor in factors if factor.side in self._sides]
            if fitting:
                still = any(factor.is_zero for factor in fitting)  # of a product
                self.additions.append(Addition("thin matrices", 0.0 if still else None, counted=False))

    def _note(self, trouble: str) -> None:
        self.trouble = self.trouble or trouble

    def _add(self, holders: Holders, name: str, weight: Tensor, by_shape: bool) -> None:
        shape = tuple(side for side in weight.shape if side != 1) or (1,)
        flat = weight.detach().reshape(shape[0], -1) if len(shape) > 1 else weight.detach().reshape(-1)
        by_channel = getattr(holders[-1][1], "groups", 1) == shape[0]  # DaViT's: thin, and no factor
        if flat.ndim == 2 and not by_shape and not by_channel and is_thin(shape, self._width):
            bias = holders[-1][1]._parameters.get("bias")
            is_zero = not flat.any() and (bias is None or bias.is_meta or not bias.any())
            place = ".".join(step for step, _ in holders[:-1])
            self._factors.setdefault(place, []).append(_Factor(max(flat.shape), is_zero))
            return
        if flat.ndim == 2:
            self._sides |= set(flat.shape)
            self.dtypes.add(_precision(weight.detach()))
        if self._sketching:
            self._maker(name, tuple(flat.shape), by_shape).add(flat)

    def _maker(self, name: str, shape: tuple[int, ...], by_shape: bool) -> SketchMaker:
        if len(shape) == 1:
            key = BIASES if name.endswith(("bias", "beta")) else SCALES
        else:
            key = f"{shape[0]}x{shape[1]}" if by_shape else MATRICES
        return self._makers.setdefault(key, SketchMaker(self._width))

    def _computed(self, holders: Holders, name: str) -> Tensor:
        """A parametrized weight; an addition where it is not what was parametrized."""
        module = holders[-1][1]
        check_readable(holders)
        still = twin(module)  # in eval mode: spectral norm, for one, iterates whenever it is asked in training
        with torch.no_grad():
            weight: Tensor = getattr(still, name)
        original = module.get_submodule(f"parametrizations.{name}")._parameters.get("original")
        if original is not None and original.shape == weight.shape:
            self.additions.append(Addition(f"parametrized {name}", relative(weight, original.detach())))
            return original if self._plain else weight
        return weight

    def _copy_in_use(self, holders: Holders) -> nn.Module:
        """A module itself or PEFT's trained copy of it."""
        module = holders[-1][1]
        original, copies = module.get_submodule("original_module"), module.get_submodule("modules_to_save")
        names = getattr(module, "active_adapters", getattr(module, "active_adapter", ()))  # the older name is one
        active = [name for name in ([names] if isinstance(names, str) else names) if name in copies._modules]
        if getattr(module, "disable_adapters", False) is True or not active:
            return original
        used = copies.get_submodule(active[-1])
        effect: float | None = None
        try:
            check_readable(holders)
            pairs = zip(used.parameters(), original.parameters(), strict=True)
            effect = max((relative(ours.detach(), theirs.detach()) for ours, theirs in pairs), default=0.0)
        except (UnreadableError, ValueError, RuntimeError) as error:
            self._note(str(error))
        self.additions.append(Addition(type(module).__name__, effect, counted=effect is not None))
        return original if self._plain else used

    def _adapted(self, layer: AdaptedLayer, by_shape: bool) -> None:
        """A layer counts with what it has in effect; one that is merged has it in its own weights."""
        if layer.merged:
            self.additions.append(Addition(layer.kind, None))
            if layer.disabled:
                self._note("adapters are merged into it and disabled; unmerge them")
            self._own(layer, by_shape)
            return
        try:
            change = layer.change()
            if change is not None:
                self._changed(layer, change, by_shape)
                return
            effect = layer.effect()
            self.additions.append(Addition(layer.kind, effect))
            if effect > MOST_EFFECT and self._sketching and not self._plain:
                self._in_effect(layer, by_shape)
            else:
                self._own(layer, by_shape)
        except Exception as error:  # whatever a foreign layer raises when it is asked alone
            self.additions.append(Addition(layer.kind, None, counted=False))
            self._note(f"what the {layer.kind} in it does cannot be told ({type(error).__name__}: {error})"[:300])

    def _changed(self, layer: AdaptedLayer, change: Tensor, by_shape: bool) -> None:
        """The weights of a layer, and what is added to one of its matrices."""
        matrices = [value for value in layer.plain._parameters.values() if value is not None and value.ndim == 2]
        alike = [value for value in matrices if value.shape == change.shape]
        effect = relative(alike[0].detach() + change, alike[0].detach()) if alike else 0.0
        if not alike and change.any():
            raise ValueError(f"a change of shape {tuple(change.shape)}")
        self.additions.append(Addition(layer.kind, effect))
        self._own(layer, by_shape)
        if effect > MOST_EFFECT and self._sketching and not self._plain:
            self._maker("weight", (len(change), change.shape[1]), by_shape).add(change, counted=False)

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
        flat = weight.detach().reshape(len(weight), -1)
        bias = layer.bias()
        if is_linear(layer.plain):
            self._sides |= set(flat.shape)
            self.dtypes.add(str(weight.dtype).removeprefix("torch."))
            self._maker("weight", tuple(flat.shape), by_shape).add_products(layer.products, flat)
        else:
            self._maker("weight", tuple(weight.shape), by_shape).add(layer.scale())
        if readable(layer.base, "bias") is not None or bias.any():
            self._maker("bias", tuple(bias.shape), by_shape).add(bias)


@dataclass(frozen=True)
class _Factor:
    """A thin matrix: its longer side, and whether it and its bias are zero."""

    side: int
    is_zero: bool


def own_weights(module: nn.Module) -> list[str]:
    """Names of a module's own parameters, of those that are computed, and of the tensors that took their place."""
    names = [name for name, value in module._parameters.items() if value is not None]
    if parametrize.is_parametrized(module):
        names += list(module.get_submodule("parametrizations")._modules)
    for name in ("weight", "bias", "in_proj_weight", "in_proj_bias"):
        if name not in names and isinstance(vars(module).get(name), Tensor):
            kept = (f"{name}_g", f"{name}_v", f"{name}_orig")
            names = [other for other in names if other not in kept] + [name]
    return names


def _precision(weight: Tensor) -> str:
    """A weight's dtype, or float16 where it was rounded to that before: it is often kept in float32 again."""
    if weight.dtype is torch.float32 and not _fits(weight, torch.bfloat16) and _fits(weight, torch.float16):
        return "float16"
    return str(weight.dtype).removeprefix("torch.")


def _fits(weight: Tensor, dtype: torch.dtype) -> bool:
    """Whether a cast changes nothing; most are told by their first row."""
    return all(torch.equal(part.to(dtype).to(part.dtype), part) for part in (weight[:1], weight))


def _keeps_copies(module: nn.Module) -> bool:
    """Whether PEFT keeps trained copies of a module in its place."""
    return all(isinstance(module._modules.get(name), nn.Module) for name in ("modules_to_save", "original_module"))
