"""Towers: what a vision tower is, which one of a host is meant, and how its activations become features."""
