"""Hosts by name: `timm:NAME`, `hf:ID-or-folder`, `open_clip:NAME`, found through entry points like adapters."""

from __future__ import annotations

import inspect
from importlib import metadata
from pathlib import Path

from torch import nn

from spaceclip_plugin.errors import HostError, nearest

GROUP = "spaceclip_plugin.hosts"


def load_host(name: str, *, weights: Path | None = None, image_hw: tuple[int, int] | None = None) -> nn.Module:
    """A frozen host in eval mode.

    A loader is called with the model's name and `weights`; with `image_hw=` too where a size is asked for.

    Args:
        name: `SCHEME:MODEL`; the schemes are the entry points of group `GROUP`.
        weights: a safetensors file with the host's state dict, loaded strictly.
        image_hw: (height, width) in pixels of the images it shall take, its positions interpolated; None: its own.

    Raises:
        HostError: an unknown scheme or model, weights that do not fit, or a size it cannot be built for.
    """
    loaders = {point.name: point for point in metadata.entry_points(group=GROUP)}
    scheme, separator, model = name.partition(":")
    if not separator or not model or scheme not in loaders:
        known = ", ".join(f"{known}:NAME" for known in sorted(loaders))
        raise HostError(f"unknown host {name!r}{nearest(scheme, loaders)}; a host is one of {known}")
    load = loaders[scheme].load()
    if image_hw is not None and "image_hw" not in inspect.signature(load).parameters:
        raise HostError(
            f"{scheme!r} hosts are built for the image size of their own config, not for {image_hw[0]}x{image_hw[1]}; "
            "leave the size out, or build the host yourself and pass `python:module:function`"
        )
    host = load(model, weights) if image_hw is None else load(model, weights, image_hw=image_hw)
    if not isinstance(host, nn.Module):
        raise HostError(f"the loader of {scheme!r} hosts gave a {type(host).__name__}, expected a torch.nn.Module")
    return host.eval().requires_grad_(False)
