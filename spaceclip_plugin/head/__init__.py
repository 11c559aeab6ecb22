"""Depth heads: one file per architecture behind one class."""
