"""Heads that come with the package: a folder for each, and the catalogue that finds them by name."""
