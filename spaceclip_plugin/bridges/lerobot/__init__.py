"""Depth for LeRobot: processor steps for its policies, and its data sets as training data.

Everything here is imported on first use: the data sets are named where LeRobot may not be installed.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from spaceclip_plugin.bridges.lerobot.adding import add_depth
    from spaceclip_plugin.bridges.lerobot.dataset import LeRobotData, LeRobotDepth
    from spaceclip_plugin.bridges.lerobot.points import DepthPointStep
    from spaceclip_plugin.bridges.lerobot.steps import DepthGuardStep, DepthProcessorStep

_HOMES = {
    "DepthGuardStep": "steps",
    "DepthPointStep": "points",
    "DepthProcessorStep": "steps",
    "LeRobotData": "dataset",
    "LeRobotDepth": "dataset",
    "add_depth": "adding",
}

__all__ = ["DepthGuardStep", "DepthPointStep", "DepthProcessorStep", "LeRobotData", "LeRobotDepth", "add_depth"]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
