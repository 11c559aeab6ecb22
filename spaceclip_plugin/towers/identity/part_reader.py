"""The weights a tower computes with, part by part; what adapters add is in them, however it is added."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from spaceclip_plugin.towers.identity.adapted_layers import (
    AdaptedLayer,
    adapted_layer,
    is_linear,
    is_thin,
    relative,
    twin,
)
from spaceclip_plugin.towers.identity.resting_weights import RestingWeights, UnreadableError, is_quantised
from spaceclip_plugin.towers.identity.weight_sketch import Sketch, SketchMaker

INPUT, CONTEXT = "input", "context"  # names of the parts that are no blocks; a block is "block 1" and so on
MATRICES, SCALES, BIASES = KINDS = ("matrices", "scales", "biases")  # apart: the ones in a norm would hide a bias
MAX_SHAPES = 32
MAX_EFFECT = 0.001  # relative change of a layer's answers up to which what was added to it counts as nothing


@dataclass(frozen=True)
class Addition:
    """Something that was added to a layer."""

    kind: str  # class of the layer, for people
    effect: float | None  # how far the layer's answers move, relative to those it would give alone; None: not known
    counted: bool = True  # whether the weights that were read are those with it


@dataclass(frozen=True)
class Part:
    """What was read of one part of a tower."""

    name: str  # "input", "block 1" and so on, "context"
    sketches: dict[str, Sketch]  # by kind of weight, or by shape (of the input's matrices); empty if it cannot be read
    additions: tuple[Addition, ...] = ()
    trouble: str | None = None  # why it cannot be read, for the inside of a sentence
    dtypes: frozenset[str] = frozenset()  # of its matrices

    @property
    def is_adapted(self) -> bool:
        """Whether what was added to its layers has an effect, or may have."""
        return any(addition.effect is None or addition.effect > MAX_EFFECT for addition in self.additions)


class PartReader:
    """Sums up the weights of one part, and notes what was added to its layers. Ask for `part` when all is read."""

    def __init__(self, name: str, width: int, *, weights: RestingWeights, sketching: bool, plain: bool) -> None:
        """Nothing is read yet; `width` is the tower's there. For the switches see `tower_reading.read_tower`."""
        self.additions: list[Addition] = []
        self._name = name
        self._width = width
        self._weights = weights
        self._sketching = sketching
        self._plain = plain
        self._by_shape = name == INPUT
        self._trouble: str | None = None
        self._dtypes: set[str] = set()
        self._makers: dict[str, SketchMaker] = {}
        self._seen: set[int] = set()
        self._sides: set[int] = set()
        # Thin matrices by the place of the modules that hold them: the longer side of each, and whether it is zero.
        self._thin: dict[str, list[tuple[int, bool]]] = {}

    def read(self, module: nn.Module) -> None:
        """Add everything in a module."""
        if id(module) in self._seen:  # shared by two places
            return
        self._seen.add(id(module))
        layer = adapted_layer(module, self._width, self._weights, in_block=not self._by_shape)
        if layer is not None:
            self._read_adapted(layer)
            return
        if all(isinstance(module._modules.get(name), nn.Module) for name in ("modules_to_save", "original_module")):
            self.read(self._copy_in_use(module))
            return
        if is_quantised(module):
            self._note(f"its weights are quantised ({type(module).__name__})")
        names = own_weights(module)
        if not self._by_shape and isinstance(module, nn.Linear) and is_thin(tuple(module.weight.shape), self._width):
            names = ["weight"]  # a bias beside a factor is an adapter's, too
        for name in names:
            self.add(module, name)
        for name, child in module.named_children():
            if name != "parametrizations" or not parametrize.is_parametrized(module):
                self.read(child)

    def add(self, module: nn.Module, name: str) -> None:
        """Add one weight of a module."""
        try:
            computed = parametrize.is_parametrized(module, name)
            weight = self._computed(module, name) if computed else self._weights.read(module, name)
            if weight is not None:
                self._add(module, name, weight.detach())
        except UnreadableError as error:
            self._note(str(error))

    def part(self) -> Part:
        """What was read."""
        for thin in self._thin.values():
            # Adapters beside the layers: their sides are the layers'. A table of relative positions is thin, too, but
            # neither side of it is a layer's. While one factor of a product is zero, the product is.
            fitting = [is_zero for side, is_zero in thin if side in self._sides]
            if fitting:
                self.additions.append(Addition("thin matrices", 0.0 if any(fitting) else None, counted=False))
        additions = tuple(self.additions)
        if not self._sketching or self._trouble is not None:
            return Part(self._name, {}, additions, self._trouble if self._sketching else None)
        keys = sorted(self._makers)[:MAX_SHAPES] if self._by_shape else KINDS
        try:
            sketches = {key: self._maker(key).sketch for key in keys}
        except ValueError as error:
            return Part(self._name, {}, additions, f"one of its weights {error}")
        return Part(self._name, sketches, additions, None, frozenset(self._dtypes))

    def _note(self, trouble: str) -> None:
        """Keep the first trouble."""
        self._trouble = self._trouble or trouble

    def _add(self, module: nn.Module, name: str, weight: Tensor) -> None:
        shape = tuple(side for side in weight.shape if side != 1) or (1,)
        flat = weight.reshape(shape[0], -1) if len(shape) > 1 else weight.reshape(-1)
        by_channel = getattr(module, "groups", 1) == shape[0]  # DaViT's: thin, and no factor
        if flat.ndim == 2 and not self._by_shape and not by_channel and is_thin(shape, self._width):
            bias = module._parameters.get("bias")
            is_zero = not flat.any() and (bias is None or bias.is_meta or not bias.any())
            place = self._weights.path(module).rpartition(".")[0]
            self._thin.setdefault(place, []).append((max(flat.shape), is_zero))
            return
        if flat.ndim == 2:
            self._sides |= set(flat.shape)
            self._dtypes.add(_precision(weight))
        if self._sketching:
            self._maker_of(name, flat).add(flat)

    def _maker_of(self, name: str, weight: Tensor) -> SketchMaker:
        """The sums that a matrix or vector of this name belongs to."""
        if weight.ndim == 1:
            return self._maker(BIASES if name.endswith(("bias", "beta")) else SCALES)
        return self._maker(f"{len(weight)}x{weight.shape[1]}" if self._by_shape else MATRICES)

    def _maker(self, key: str) -> SketchMaker:
        return self._makers.setdefault(key, SketchMaker(self._width))

    def _computed(self, module: nn.Module, name: str) -> Tensor:
        """A parametrized weight; an addition where it is not what was parametrized."""
        self._weights.check(module)
        still = twin(module)  # in eval mode: spectral norm, for one, iterates whenever it is asked in training
        with torch.no_grad():
            weight: Tensor = getattr(still, name)
        original = module.get_submodule(f"parametrizations.{name}")._parameters.get("original")
        if original is not None and original.shape == weight.shape:
            self.additions.append(Addition(f"parametrized {name}", relative(weight, original.detach())))
            return original if self._plain else weight
        return weight

    def _copy_in_use(self, module: nn.Module) -> nn.Module:
        """A module itself or PEFT's trained copy of it."""
        original, copies = module.get_submodule("original_module"), module.get_submodule("modules_to_save")
        names = getattr(module, "active_adapters", getattr(module, "active_adapter", ()))  # the older name is one
        active = [name for name in ([names] if isinstance(names, str) else names) if name in copies._modules]
        if getattr(module, "disable_adapters", False) is True or not active:
            return original
        used = copies.get_submodule(active[-1])
        effect: float | None = None
        try:
            self._weights.check(module)
            pairs = zip(used.parameters(), original.parameters(), strict=True)
            effect = max((relative(ours.detach(), theirs.detach()) for ours, theirs in pairs), default=0.0)
        except (UnreadableError, ValueError, RuntimeError) as error:
            self._note(str(error))
        self.additions.append(Addition(type(module).__name__, effect, counted=effect is not None))
        return original if self._plain else used

    def _read_adapted(self, layer: AdaptedLayer) -> None:
        """A layer counts with what it has in effect; one that is merged has it in its own weights."""
        kind = type(layer.module).__name__
        if layer.merged:
            self.additions.append(Addition(kind, None))
            if layer.disabled:
                self._note("adapters are merged into it and disabled; unmerge them")
            self._read_plain(layer)
            return
        try:
            change = layer.change()
            effect = layer.effect() if change is None else self._effect_of(change, layer)
            self.additions.append(Addition(kind, effect))
            counts = effect > MAX_EFFECT and self._sketching and not self._plain
            if counts and change is None:
                self._add_in_effect(layer)
                return
            self._read_plain(layer)
            if counts and change is not None:
                self._maker_of("weight", change).add(change, counted=False)
        except Exception as error:  # whatever a foreign layer raises when it is asked alone
            self.additions.append(Addition(kind, None, counted=False))
            self._note(f"what the {kind} in it does cannot be told ({type(error).__name__}: {error})"[:300])

    @staticmethod
    def _effect_of(change: Tensor, layer: AdaptedLayer) -> float:
        """How far a change moves the matrix of the layer that has its shape."""
        values = (value for value in layer.plain._parameters.values() if value is not None and value.ndim == 2)
        alike = next((value.detach() for value in values if value.shape == change.shape), None)
        if alike is None and change.any():
            raise ValueError(f"a change of shape {tuple(change.shape)}")
        return 0.0 if alike is None else relative(alike + change, alike)

    def _read_plain(self, layer: AdaptedLayer) -> None:
        """The weights of the layer alone."""
        if layer.plain is layer.module:
            for name in ("weight", "bias"):
                self.add(layer.plain, name)
        else:
            self.read(layer.plain)

    def _add_in_effect(self, layer: AdaptedLayer) -> None:
        """The weights that the layer computes with."""
        weight = self._weights.read(layer.plain, "weight")
        if weight is None:
            raise UnreadableError(f"the {type(layer.module).__name__} in it has no weight")
        flat, bias = weight.detach().reshape(len(weight), -1), layer.bias()
        if is_linear(layer.plain):
            self._sides |= set(flat.shape)
            self._maker_of("weight", flat).add_products(layer.products, flat)
        else:
            self._maker_of("weight", weight).add(layer.scale())
        if self._weights.read(layer.plain, "bias") is not None or bias.any():
            self._maker_of("bias", bias).add(bias)


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

    def fits(dtype: torch.dtype) -> bool:  # most are told by their first row
        return all(torch.equal(part.to(dtype).to(part.dtype), part) for part in (weight[:1], weight))

    if weight.dtype is torch.float32 and not fits(torch.bfloat16) and fits(torch.float16):
        return "float16"
    return str(weight.dtype).removeprefix("torch.")
