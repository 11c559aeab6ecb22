"""Metric depth from the vision tower a VLA already runs.

`attach_depth_head(host)` is the front door: it hooks the live, frozen host, reuses the activations it computes
anyway and decodes dense metric depth from them. Everything here is imported on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from spaceclip_plugin.attach import DepthAttachment, DepthReader, attach_depth_head
    from spaceclip_plugin.depth import DepthMap, ImageMapping, Intrinsics
    from spaceclip_plugin.errors import SpaceClipError
    from spaceclip_plugin.guard import DepthGuard
    from spaceclip_plugin.head.config import DepthHeadConfig
    from spaceclip_plugin.head.depth_head import DepthHead
    from spaceclip_plugin.towers import TowerSpec, find_towers

_HOMES = {
    "DepthAttachment": "attach",
    "DepthGuard": "guard",
    "DepthHead": "head.depth_head",
    "DepthHeadConfig": "head.config",
    "DepthMap": "depth",
    "DepthReader": "attach",
    "ImageMapping": "depth",
    "Intrinsics": "depth",
    "SpaceClipError": "errors",
    "TowerSpec": "towers",
    "attach_depth_head": "attach",
    "find_towers": "towers",
}

__all__ = [
    "DepthAttachment",
    "DepthGuard",
    "DepthHead",
    "DepthHeadConfig",
    "DepthMap",
    "DepthReader",
    "ImageMapping",
    "Intrinsics",
    "SpaceClipError",
    "TowerSpec",
    "attach_depth_head",
    "find_towers",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
