"""Adapters by name, and the one tower of a host that is meant."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterable
from dataclasses import replace
from importlib import metadata

from torch import nn

from spaceclip_plugin.errors import AdapterError, AmbiguousTowerError, HostError, TowerNotFoundError, nearest
from spaceclip_plugin.towers.adapter import Adapter, lineage
from spaceclip_plugin.towers.convolutional import convolutional_networks
from spaceclip_plugin.towers.image_statistics import said_by_user
from spaceclip_plugin.towers.spec import Tower
from spaceclip_plugin.towers.structural import StructuralAdapter

GROUP = "spaceclip_plugin.adapters"
STRUCTURAL = StructuralAdapter()

_logger = logging.getLogger(__name__)


@functools.lru_cache(maxsize=1)
def installed_adapters() -> dict[str, Adapter]:
    """Adapters of every installed package, by name, found through the entry-point group `GROUP`."""
    return collect_adapters(metadata.entry_points(group=GROUP))


def collect_adapters(entry_points: Iterable[metadata.EntryPoint]) -> dict[str, Adapter]:
    """Adapters by name, AdapterError of two of one name; one that cannot be imported is logged and left out."""
    found: dict[str, Adapter] = {}
    origin: dict[str, str] = {}
    for point in entry_points:
        try:
            adapter = point.load()
        except Exception as error:  # whatever a stranger's module raises; it must not take the others with it
            _logger.warning("adapter %r (%s) is left out: %s: %s", point.name, point.value, type(error).__name__, error)
            continue
        if point.name in found and origin[point.name] != point.value:
            raise AdapterError(
                f"two adapters are called {point.name!r}: {origin[point.name]} and {point.value}; uninstall one"
            )
        found[point.name], origin[point.name] = adapter, point.value
    return found


def find_towers(host: nn.Module, *, adapter: str | Adapter | None = None) -> list[Tower]:
    """Every vision tower in `host`, in module order: those that adapters know, and what structure gives away beside.

    Args:
        adapter: look with this one alone: its name, "structural", or an instance.

    Raises:
        AdapterError: an unknown adapter, or two that claim the same tower.
        HostError: `host` is not a module.

    Example:
        >>> from transformers import CLIPVisionConfig, CLIPVisionModel
        >>> from spaceclip_plugin.towers import find_towers
        >>> size = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64)
        >>> host = CLIPVisionModel(CLIPVisionConfig(image_size=64, patch_size=16, **size))
        >>> [tower] = find_towers(host)
        >>> tower.spec.adapter, tower.spec.blocks, tower.spec.grid_hw, tower.spec.context
        ('clip', 2, (4, 4), 'cls')
    """
    if not isinstance(host, nn.Module):
        raise HostError(
            f"the host must be a torch.nn.Module, got {type(host).__name__}; "
            "for a policy wrapper or pipeline, pass the module inside it (often .model or .policy)"
        )
    if adapter is not None:
        return [_as_said(host, tower) for tower in _adapter(adapter).find(host)]
    claimed: dict[int, Tower] = {}
    for known in installed_adapters().values():
        for tower in known.find(host):
            other = claimed.setdefault(id(tower.blocks[0]), tower)
            if other is not tower:
                raise AdapterError(
                    f"adapters {other.spec.adapter!r} and {known.name!r} both claim the {tower.spec}; "
                    "name one: find_towers(host, adapter=NAME), --adapter NAME"
                )
    order = {id(module): position for position, module in enumerate(host.modules())}
    unknown = STRUCTURAL.find_beside(host, list(claimed.values()))
    towers = sorted([*claimed.values(), *unknown], key=lambda tower: order[id(tower.module)])
    return [_as_said(host, tower) for tower in towers]


def _as_said(host: nn.Module, tower: Tower) -> Tower:
    """The tower with the statistics a user declared, even where its adapter knows others and does not look."""
    said = said_by_user(lineage(host, tower.spec.path))
    spec = tower.spec if said is None else replace(tower.spec, image_mean=said.mean, image_std=said.std)
    return replace(tower, spec=spec)


def find_tower(host: nn.Module, *, tower: str | None = None, adapter: str | Adapter | None = None) -> Tower:
    """The one tower of `host`, or that at path `tower`; TowerNotFoundError of none, AmbiguousTowerError of several."""
    found = find_towers(host, adapter=adapter)
    name, by_path = type(host).__name__, {one.spec.path: one for one in found}
    if not found:
        raise no_tower(host, adapter=adapter)
    if tower is not None and tower not in by_path:
        paths = ", ".join(map(repr, by_path))
        raise TowerNotFoundError(
            f"{name} has no tower at {tower!r}{nearest(tower, by_path)}; its towers are at {paths}"
        )
    if tower is None and len(found) > 1:
        listed = "; ".join(str(one.spec) for one in found)
        raise AmbiguousTowerError(f"{name} has {len(found)} towers: {listed}. Name one with tower=PATH.")
    return found[0] if tower is None else by_path[tower]


def no_tower(host: nn.Module, *, adapter: str | Adapter | None = None) -> TowerNotFoundError:
    """The error for a host in which no tower was found; it says plainly where no tower can be."""
    name = type(host).__name__
    if networks := convolutional_networks(host):
        return TowerNotFoundError(
            f"no vision tower in {name}: its images go through a convolutional network, "
            f"{'; '.join(map(str, networks))}, which is no transformer. Depth is decoded from the patch tokens of a "
            "transformer's blocks, so that no adapter can help here; use a host whose vision is a ViT, as SmolVLA's is"
        )
    looked = "any adapter" if adapter is None else f"adapter {_adapter(adapter).name!r}"
    return TowerNotFoundError(
        f"no vision tower found in {name} by {looked}: expected a stack of transformer blocks behind a patch "
        "embedding. Pass the module that holds it, name its adapter (find_towers(host, adapter=NAME)), or "
        "write one (adapters/README.md)."
    )


def _adapter(adapter: str | Adapter) -> Adapter:
    if not isinstance(adapter, str):
        return adapter
    known = {**installed_adapters(), STRUCTURAL.name: STRUCTURAL}
    if adapter not in known:
        raise AdapterError(
            f"unknown adapter {adapter!r}{nearest(adapter, known)}; installed are {', '.join(sorted(known))}"
        )
    return known[adapter]
