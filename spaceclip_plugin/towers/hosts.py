"""Hosts by name: `timm:`, `open_clip:`, `hf:` or `lerobot:` and a model's, found through entry points like adapters."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import metadata
from pathlib import Path

from torch import nn

from spaceclip_plugin.errors import HostError, nearest
from spaceclip_plugin.towers.adapter import declared_statistics
from spaceclip_plugin.towers.image_statistics import ImageStatistics
from spaceclip_plugin.towers.registry import find_towers

logger = logging.getLogger(__name__)

GROUP = "spaceclip_plugin.hosts"
RANDOM = "random"  # weights that are none: what is asked for by this name comes from a fixed seed


def load_host(
    name: str,
    *,
    weights: Path | str | None = None,
    image_hw: tuple[int, int] | None = None,
    image_mean: Sequence[float] | None = None,
    image_std: Sequence[float] | None = None,
) -> nn.Module:
    """A frozen host in eval mode, with the pretrained weights that its name means.

    A loader is called with the model's name and the weights' path or None; with `image_hw=`, `random=True` or
    `statistics=` too where a size, random weights or statistics are asked for.

    Args:
        name: `SCHEME:MODEL`; the schemes are the entry points of group `GROUP`.
        weights: a safetensors file with the host's state dict, loaded strictly; "random" for random ones from a fixed
            seed (a file that is called so is "./random", or a `Path`); None: its own, from the Hub or its cache.
        image_hw: (height, width) in pixels of the images it shall take, its positions interpolated; None: its own.
        image_mean, image_std: three numbers each in the order R, G, B that images in [0, 1] are normalised with,
            instead of what the host declares; None: what it declares. `ImageStatistics.declare` says the same of a
            host that was built otherwise.

    Raises:
        HostError: an unknown scheme or model, weights that do not fit or cannot be had, or a size it cannot be built
            for.
        ConfigError: mean and deviation that cannot be, or one without the other.

    Example:
        >>> from spaceclip_plugin.towers import find_towers, load_host
        >>> host = load_host("timm:vit_tiny_patch16_224", weights="random")
        >>> find_towers(host)[0].spec.grid_hw
        (14, 14)
    """
    statistics = ImageStatistics.from_pair(image_mean, image_std)
    scheme, _, model = name.partition(":")
    load = _loader(name)
    takes = inspect.signature(load).parameters
    if image_hw is not None and "image_hw" not in takes:
        raise HostError(
            f"{scheme!r} hosts are built for the image size of their own config, not for {image_hw[0]}x{image_hw[1]}; "
            "leave the size out, or build the host yourself and pass `python:module:function`"
        )
    if weights == RANDOM and "random" not in takes:
        raise HostError(f"{scheme!r} hosts are not built with random weights; give a file, or leave the weights out")
    asked = {"image_hw": image_hw, "random": True if weights == RANDOM else None, "statistics": statistics}
    options = {option: value for option, value in asked.items() if value is not None and option in takes}
    host = load(model, None if weights is None or weights == RANDOM else Path(weights), **options)
    if not isinstance(host, nn.Module):
        raise HostError(f"the loader of {scheme!r} hosts gave a {type(host).__name__}, expected a torch.nn.Module")
    host.eval().requires_grad_(False)
    if statistics is not None:
        say_statistics(host, statistics)
    return host


def _loader(name: str) -> Callable[..., object]:
    """What loads hosts of the scheme in a name."""
    loaders = {point.name: point for point in metadata.entry_points(group=GROUP)}
    scheme, _, model = name.partition(":")
    if not model or scheme not in loaders:
        known = ", ".join(f"{kind}:NAME" for kind in sorted(loaders))
        raise HostError(
            f"unknown host {name!r}{nearest(scheme, [*loaders, 'python'])}; a host is one of {known}, or on the "
            "command line python:MODULE:FUNCTION, a function of yours that returns one"
        )
    load: Callable[..., object] = loaders[scheme].load()
    return load


def say_statistics(host: nn.Module, statistics: ImageStatistics) -> None:
    """Have every tower of a host take the statistics that a user says; a warning where the host declares others."""
    with suppress(HostError):  # which towers there are is asked again, and answered, when one is needed
        for tower in find_towers(host):
            path, own = tower.spec.path, ImageStatistics.of(tower.spec)
            if not own.agrees(statistics) and declared_statistics(host, path) is not None:
                logger.warning("%s: the host declares %s; %s is taken, as was said", tower.spec, own, statistics)
    statistics.declare(host)


def revision_of(host: nn.Module) -> str | None:
    """The commit on the Hub that the host's weights were loaded from; None where that is not known."""
    for holder in (host, getattr(host, "config", None)):
        commit = getattr(holder, "_commit_hash", None)
        if isinstance(commit, str):
            return commit
    return None
