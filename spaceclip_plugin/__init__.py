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
    from spaceclip_plugin.depth.camera import Intrinsics
    from spaceclip_plugin.depth.depth_map import DepthMap
    from spaceclip_plugin.errors import SpaceClipError
    from spaceclip_plugin.head.config import DepthHeadConfig
    from spaceclip_plugin.head.depth_head import DepthHead

_HOMES = {
    "attach_depth_head": "attach",
    "DepthAttachment": "attach",
    "DepthHead": "head.depth_head",
    "DepthHeadConfig": "head.config",
    "DepthMap": "depth.depth_map",
    "DepthReader": "attach",
    "Intrinsics": "depth.camera",
    "SpaceClipError": "errors",
}

__all__ = [
    "DepthAttachment",
    "DepthHead",
    "DepthHeadConfig",
    "DepthMap",
    "DepthReader",
    "Intrinsics",
    "SpaceClipError",
    "attach_depth_head",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
