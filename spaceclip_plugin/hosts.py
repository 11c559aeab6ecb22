"""Hosts by name: `timm:NAME`, `hf:ID-or-folder`, `open_clip:NAME`, found through entry points like adapters."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

from torch import nn

from spaceclip_plugin.errors import HostError, nearest

GROUP = "spaceclip_plugin.hosts"


def load_host(name: str, *, weights: Path | None = None) -> nn.Module:
    """A frozen host in eval mode.

    Args:
        name: `SCHEME:MODEL`; the schemes are the entry points of group `GROUP`.
        weights: a safetensors file with the host's state dict, loaded strictly.

    Raises:
        HostError: an unknown scheme or model, or weights that do not fit.
    """
    loaders = {point.name: point for point in metadata.entry_points(group=GROUP)}
    scheme, separator, model = name.partition(":")
    if not separator or not model or scheme not in loaders:
        known = ", ".join(f"{known}:NAME" for known in sorted(loaders))
        raise HostError(f"unknown host {name!r}{nearest(scheme, loaders)}; a host is one of {known}")
    host = loaders[scheme].load()(model, weights)
    if not isinstance(host, nn.Module):
        raise HostError(f"the loader of {scheme!r} hosts gave a {type(host).__name__}, expected a torch.nn.Module")
    return host.eval().requires_grad_(False)
