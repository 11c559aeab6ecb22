"""Depth in the Rerun viewer."""
