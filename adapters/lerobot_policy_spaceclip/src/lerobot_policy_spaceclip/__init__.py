"""Importing this registers the processor steps `spaceclip_depth` and `spaceclip_depth_guard` with LeRobot."""

from spaceclip_plugin.bridges.lerobot import DepthGuardStep, DepthProcessorStep, add_depth

__all__ = ["DepthGuardStep", "DepthProcessorStep", "add_depth"]
