"""Depth in the Rerun viewer."""

from spaceclip_plugin.bridges.rerun.sink import RerunSink, import_rerun

__all__ = ["RerunSink", "import_rerun"]
