"""Depth in other people's libraries: one folder per optional library, imported only when asked for."""
