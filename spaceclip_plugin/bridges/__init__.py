"""Depth in the formats and frameworks of other libraries: a room for each, which alone imports that library."""
