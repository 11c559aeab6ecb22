"""Depth in the Rerun viewer."""

from spaceclip_plugin.bridges.rerun.sink import RerunSink

__all__ = ["RerunSink"]
