"""Importing this registers `spaceclip_depth`, `spaceclip_depth_guard` and `spaceclip_depth_point` with LeRobot."""

from spaceclip_plugin.bridges.lerobot import DepthGuardStep, DepthPointStep, DepthProcessorStep, add_depth

__all__ = ["DepthGuardStep", "DepthPointStep", "DepthProcessorStep", "add_depth"]
