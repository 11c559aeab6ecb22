"""Depth that does not flicker: what earlier frames of a video saw of the same surfaces."""

from spaceclip_plugin.depth.steadiness import Steadiness
from spaceclip_plugin.steady.look import Look
from spaceclip_plugin.steady.steady_depth import SteadyDepth

__all__ = ["Look", "Steadiness", "SteadyDepth"]
