"""Telling, by structure, a host whose images go through a convolutional network: it has no blocks to read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeGuard

from torch import nn

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_MAX_IMAGE_CHANNELS = 12  # four RGB frames on top of each other
_MIN_CONVOLUTIONS = 2  # one alone is a patch embedding
_MAX_OF_A_STEM = 7  # in front of a transformer; a network that ends before it has more


@dataclass(frozen=True)
class ConvolutionalNetwork:
    """A network of convolutions that a host's images go through."""

    name: str  # class of the module that holds it
    path: str  # where that module is in the host; empty where it is the host
    convolutions: int  # how many of them look at more than one pixel
    block: str  # class that holds most of them, with its module; empty where the network itself does

    def __str__(self) -> str:
        where = f" at {self.path!r}" if self.path else ""
        blocks = f", mostly in {self.block}" if self.block else ""
        return f"{self.name}{where} ({self.convolutions} convolutions{blocks})"


def convolutional_networks(host: nn.Module) -> list[ConvolutionalNetwork]:
    """The convolutional networks that take pictures in `host`, in module order; a transformer's stem is none."""
    modules = dict(host.named_modules())
    found: dict[str, ConvolutionalNetwork] = {}
    for path, module in modules.items():
        if not _takes_pictures(module) or any(f"{path}.".startswith(f"{other}.") or not other for other in found):
            continue
        owner = _owner(modules, path)
        if owner is None or _attends(modules[owner]) or _is_embedding(modules, owner):
            continue
        parts = [inner for inner, part in modules[owner].named_modules() if _is_spatial(part)]
        if len(parts) > _MAX_OF_A_STEM or not _attends(host):
            name = type(modules[owner]).__name__
            found[owner] = ConvolutionalNetwork(name, owner, len(parts), _block(modules[owner], parts))
    return [*found.values()]


def _owner(modules: dict[str, nn.Module], path: str) -> str | None:
    """Path of the innermost module that holds the network which begins at `path`; of a stem, what it is the stem of."""
    owner, held = None, 0
    while path:
        path = path.rpartition(".")[0]
        module = modules[path]
        count = sum(map(_is_spatial, module.modules()))
        if count < _MIN_CONVOLUTIONS or (path and type(module) in _CONTAINERS):
            continue
        if held > _MAX_OF_A_STEM or (held and (_attends(module) or sum(map(_takes_pictures, module.modules())) > 1)):
            break
        if count > held:
            owner, held = path, count
    return owner


def _is_embedding(modules: dict[str, nn.Module], path: str) -> bool:
    """Whether a transformer's embedding lies at or around that path: it may be a network of its own."""
    steps = path.split(".") if path else []
    around = [modules[".".join(steps[: depth + 1])] for depth in range(len(steps))]
    return any("embed" in type(module).__name__.lower() for module in around)


def _is_spatial(module: nn.Module) -> TypeGuard[nn.Conv2d]:
    return isinstance(module, nn.Conv2d) and max(module.kernel_size) > 1


def _takes_pictures(module: nn.Module) -> bool:
    return _is_spatial(module) and module.groups == 1 and module.in_channels <= _MAX_IMAGE_CHANNELS


def _attends(module: nn.Module) -> bool:
    """Whether it attends at more than one place: one alone pools, as in CLIP's ResNets."""
    names = (type(part).__name__.lower() for part in module.modules())
    return sum("attention" in name and "pool" not in name for name in names) > 1


def _block(owner: nn.Module, paths: Sequence[str]) -> str:
    """Class of what holds most of the convolutions at these paths."""
    holders: Counter[type[nn.Module]] = Counter()
    for path in paths:
        holder = owner
        while path and (holder is owner or type(holder) in _CONTAINERS):
            path = path.rpartition(".")[0]
            holder = owner.get_submodule(path)
        holders[type(holder)] += 1
    [(block, _)] = holders.most_common(1)
    return "" if block is type(owner) else f"{block.__module__}.{block.__name__}"
