"""Augmented versions of a sample, with their depth and their intrinsics."""
